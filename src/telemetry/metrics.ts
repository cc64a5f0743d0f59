/**
 * Table of all Prometheus metrics, made once and handed in by constructor.
 *
 * Labels are small closed sets; never a repository, tag, digest, user or raw path.
 */
import { collectDefaultMetrics, Counter, Gauge, Histogram, Registry } from 'prom-client'

export type Metrics = ReturnType<typeof createMetrics>

/** Has a registry of its own, so that two apps in one process do not share counters. */
export function createMetrics(options: { processMetrics: boolean } = { processMetrics: false }) {
  const registry = new Registry()
  const registers = [registry]
  const counter = <Label extends string = never>(name: string, help: string, labelNames: Label[] = []) =>
    new Counter({ name, help, labelNames, registers })
  const gauge = <Label extends string = never>(name: string, help: string, labelNames: Label[] = []) =>
    new Gauge({ name, help, labelNames, registers })
  const histogram = <Label extends string>(
    name: string,
    help: string,
    labelNames: Label[],
    buckets: number[],
  ) => new Histogram({ name, help, labelNames, buckets, registers })
  if (options.processMetrics) collectDefaultMetrics({ register: registry })
  const beforeScrape = new Set<() => void | Promise<void>>()
  const scrape = async (): Promise<string> => {
    for (const it of beforeScrape) {
      try {
        await it()
      } catch {
        // A figure that cannot be read keeps its old value; the others are still updated.
      }
    }
    return registry.metrics()
  }
  const tlsCertificateNotAfter = gauge(
    'entrepot_tls_certificate_not_after_seconds',
    'When the certificate that is served expires, in seconds since 1970; absent without one.',
  )
  // A gauge begins with 0, which would be a certificate that expired long ago.
  tlsCertificateNotAfter.remove()
  return {
    registry,
    tlsCertificateNotAfter,
    /** Called before a scrape reads the figures, for figures that grow old by themselves. */
    beforeScrape,
    /** All metrics in the text format of Prometheus. */
    scrape,
    pulls: counter('entrepot_pulls_total', 'Blobs and manifests served, by where the bytes came from.', [
      'upstream',
      'kind',
      'cache',
    ]),
    servedBytes: counter('entrepot_served_bytes_total', 'Body bytes sent to clients.', ['kind', 'cache']),
    requestDuration: histogram(
      'entrepot_http_request_duration_seconds',
      'From the request head to the end of the response.',
      ['method', 'route', 'code'],
      [0.002, 0.01, 0.05, 0.25, 1, 5, 15, 60, 300],
    ),
    upstreamRequests: counter(
      'entrepot_upstream_requests_total',
      'Requests sent to upstreams; code is the status class, or the failure without one.',
      ['upstream', 'kind', 'code'],
    ),
    upstreamRetries: counter(
      'entrepot_upstream_retries_total',
      'Requests repeated, and fills continued after a broken body.',
      ['upstream', 'reason'],
    ),
    upstreamBytes: counter('entrepot_upstream_bytes_total', 'Body bytes received from upstreams.', [
      'upstream',
    ]),
    upstreamCredentialsRejected: gauge(
      'entrepot_upstream_credentials_rejected',
      '1 while the upstream refuses the credentials that it has to be shown, else 0.',
      ['upstream', 'account'],
    ),
    upstreamRatelimitRemaining: gauge(
      'entrepot_upstream_ratelimit_remaining',
      'Pulls left to an account, as the upstream last said.',
      ['upstream', 'account'],
    ),
    upstreamRatelimitLimit: gauge(
      'entrepot_upstream_ratelimit_limit',
      'Pulls that an account has in a window, as the upstream last said.',
      ['upstream', 'account'],
    ),
    upstreamBreakerOpen: gauge(
      'entrepot_upstream_breaker_open',
      '1 while an upstream that failed is left alone, with one question at a time to see whether it is back.',
      ['upstream', 'account'],
    ),
    fillsInFlight: gauge('entrepot_fills_in_flight', 'Downloads running.'),
    prefetchesInFlight: gauge(
      'entrepot_prefetches_in_flight',
      'Questions and fetches ahead of any client, of what refers to an image: running and waiting.',
    ),
    fillDuration: histogram(
      'entrepot_fill_duration_seconds',
      'From the start of a download to its adoption or failure.',
      ['upstream', 'result'],
      [0.05, 0.25, 1, 5, 15, 60, 300, 1800],
    ),
    integrityFailures: counter(
      'entrepot_integrity_failures_total',
      'Bodies from upstream that did not have the digest they were asked by.',
      ['upstream'],
    ),
    bypasses: counter(
      'entrepot_cache_bypass_total',
      'Fills and writes that storage would not take: streamed through, or not remembered.',
      ['reason'],
    ),
    cacheBytes: gauge(
      'entrepot_cache_bytes',
      'Bytes of mirrored blobs, manifests and answers, and of downloads that are not whole.',
      ['upstream'],
    ),
    cacheLimit: gauge(
      'entrepot_cache_limit_bytes',
      'The most that may be mirrored; with an upstream, of that one.',
      ['upstream'],
    ),
    indexBytes: gauge(
      'entrepot_index_bytes',
      'Bytes that the index itself needs of the disk, without the answers of upstreams in it.',
    ),
    pushedBytes: gauge(
      'entrepot_pushed_bytes',
      'Bytes of blobs and manifests that were pushed; nothing evicts them.',
    ),
    evictions: counter(
      'entrepot_cache_evictions_total',
      'Images, blobs and parts of downloads that were evicted.',
      ['reason'],
    ),
    evictedBytes: counter(
      'entrepot_cache_evicted_bytes_total',
      'Bytes that evictions gave back to the disk.',
      ['reason'],
    ),
    collections: counter(
      'entrepot_collections_total',
      'Garbage collections, by how they ended: done, broken_off or failed.',
      ['result'],
    ),
    collectedBytes: counter(
      'entrepot_collected_bytes_total',
      'Bytes of pushed blobs and manifests that the disk got back.',
    ),
    scrubbedBytes: counter(
      'entrepot_scrubbed_bytes_total',
      'Bytes of blobs that were read again and compared with their digests.',
    ),
    scrubCorrupt: counter(
      'entrepot_scrub_corrupt_total',
      'Blobs that were found damaged, and pushed ones that were gone, by the scrub or by a pull.',
      ['kind'],
    ),
    scrubOldestCheck: gauge(
      'entrepot_scrub_oldest_check_seconds',
      'How long ago the blob was checked whose check is longest ago.',
    ),
    quarantinedBlobs: gauge(
      'entrepot_quarantined_blobs',
      'Pushed blobs and manifests that are damaged or gone: each is to be pushed again.',
    ),
    notificationsQueued: gauge('entrepot_notifications_queued', 'Events that wait for an end-point.', [
      'endpoint',
    ]),
    notificationsDelivered: counter(
      'entrepot_notifications_delivered_total',
      'Events that an end-point has taken.',
      ['endpoint'],
    ),
    notificationsFailed: counter(
      'entrepot_notifications_failed_total',
      'Attempts to deliver an event that came to nothing; each is repeated.',
      ['endpoint'],
    ),
    notificationsDropped: counter(
      'entrepot_notifications_dropped_total',
      'Events that an end-point will never be told of, because too many waited for it.',
      ['endpoint'],
    ),
    outOfFiles: counter(
      'entrepot_out_of_files_total',
      'What met the limit of open files: a connection of a client or to an upstream, a file, a request.',
      ['what'],
    ),
    failedWrites: counter(
      'entrepot_metadata_write_failures_total',
      'Metadata commits that failed; the answer was given all the same.',
    ),
  }
}
