/**
 * Every Prometheus metric in one table, made once and handed in by constructor.
 *
 * Labels are small closed sets; never a repository, tag, digest, user or raw path.
 */
import { collectDefaultMetrics, Counter, Gauge, Histogram, Registry } from 'prom-client'

export type Metrics = ReturnType<typeof createMetrics>

/** Its own registry each time: two apps in one process do not share counters. */
export function createMetrics(options: { processMetrics: boolean } = { processMetrics: false }) {
  const registry = new Registry()
  const registers = [registry]
  if (options.processMetrics) collectDefaultMetrics({ register: registry })
  const beforeScrape = new Set<() => void | Promise<void>>()
  const scrape = async (): Promise<string> => {
    for (const it of beforeScrape) {
      try {
        await it()
      } catch {
        // A figure that cannot be had now is an old one; the others are told all the same.
      }
    }
    return registry.metrics()
  }
  const tlsCertificateNotAfter = new Gauge({
    name: 'entrepot_tls_certificate_not_after_seconds',
    help: 'When the certificate that is served expires, in seconds since 1970; absent without one.',
    registers,
  })
  // A gauge begins with 0, which would be a certificate that expired long ago.
  tlsCertificateNotAfter.remove()
  return {
    registry,
    tlsCertificateNotAfter,
    /** Called before the figures are read, for those that grow old by themselves. */
    beforeScrape,
    /** All of them, as Prometheus reads them. */
    scrape,
    pulls: new Counter({
      name: 'entrepot_pulls_total',
      help: 'Blobs and manifests served, by where the bytes came from.',
      labelNames: ['upstream', 'kind', 'cache'] as const,
      registers,
    }),
    servedBytes: new Counter({
      name: 'entrepot_served_bytes_total',
      help: 'Body bytes sent to clients.',
      labelNames: ['kind', 'cache'] as const,
      registers,
    }),
    requestDuration: new Histogram({
      name: 'entrepot_http_request_duration_seconds',
      help: 'From the request head to the end of the response.',
      labelNames: ['method', 'route', 'code'] as const,
      buckets: [0.002, 0.01, 0.05, 0.25, 1, 5, 15, 60, 300],
      registers,
    }),
    upstreamRequests: new Counter({
      name: 'entrepot_upstream_requests_total',
      help: 'Requests sent to upstreams; code is the status class, or the failure without one.',
      labelNames: ['upstream', 'kind', 'code'] as const,
      registers,
    }),
    upstreamRetries: new Counter({
      name: 'entrepot_upstream_retries_total',
      help: 'Requests repeated, and fills continued after a broken body.',
      labelNames: ['upstream', 'reason'] as const,
      registers,
    }),
    upstreamBytes: new Counter({
      name: 'entrepot_upstream_bytes_total',
      help: 'Body bytes received from upstreams.',
      labelNames: ['upstream'] as const,
      registers,
    }),
    upstreamCredentialsRejected: new Gauge({
      name: 'entrepot_upstream_credentials_rejected',
      help: '1 while the upstream refuses the credentials that it has to be shown, else 0.',
      labelNames: ['upstream', 'account'] as const,
      registers,
    }),
    upstreamRatelimitRemaining: new Gauge({
      name: 'entrepot_upstream_ratelimit_remaining',
      help: 'Pulls left to an account, as the upstream last said.',
      labelNames: ['upstream', 'account'] as const,
      registers,
    }),
    upstreamRatelimitLimit: new Gauge({
      name: 'entrepot_upstream_ratelimit_limit',
      help: 'Pulls that an account has in a window, as the upstream last said.',
      labelNames: ['upstream', 'account'] as const,
      registers,
    }),
    upstreamBreakerOpen: new Gauge({
      name: 'entrepot_upstream_breaker_open',
      help: '1 while an upstream that failed is left alone, with one question at a time to see whether it is back.',
      labelNames: ['upstream', 'account'] as const,
      registers,
    }),
    fillsInFlight: new Gauge({
      name: 'entrepot_fills_in_flight',
      help: 'Downloads running.',
      registers,
    }),
    prefetchesInFlight: new Gauge({
      name: 'entrepot_prefetches_in_flight',
      help: 'Questions and fetches ahead of any client, of what refers to an image: running and waiting.',
      registers,
    }),
    fillDuration: new Histogram({
      name: 'entrepot_fill_duration_seconds',
      help: 'From the start of a download to its adoption or failure.',
      labelNames: ['upstream', 'result'] as const,
      buckets: [0.05, 0.25, 1, 5, 15, 60, 300, 1800],
      registers,
    }),
    integrityFailures: new Counter({
      name: 'entrepot_integrity_failures_total',
      help: 'Bodies from upstream that did not have the digest they were asked by.',
      labelNames: ['upstream'] as const,
      registers,
    }),
    bypasses: new Counter({
      name: 'entrepot_cache_bypass_total',
      help: 'Fills and writes that storage would not take: streamed through, or not remembered.',
      labelNames: ['reason'] as const,
      registers,
    }),
    cacheBytes: new Gauge({
      name: 'entrepot_cache_bytes',
      help: 'Bytes of mirrored blobs, manifests and answers, and of downloads that are not whole.',
      labelNames: ['upstream'] as const,
      registers,
    }),
    cacheLimit: new Gauge({
      name: 'entrepot_cache_limit_bytes',
      help: 'The most that may be mirrored; with an upstream, of that one.',
      labelNames: ['upstream'] as const,
      registers,
    }),
    indexBytes: new Gauge({
      name: 'entrepot_index_bytes',
      help: 'Bytes that the index itself needs of the disk, without the answers of upstreams in it.',
      registers,
    }),
    pushedBytes: new Gauge({
      name: 'entrepot_pushed_bytes',
      help: 'Bytes of blobs and manifests that were pushed; nothing evicts them.',
      registers,
    }),
    evictions: new Counter({
      name: 'entrepot_cache_evictions_total',
      help: 'Images, blobs and parts of downloads that were evicted.',
      labelNames: ['reason'] as const,
      registers,
    }),
    evictedBytes: new Counter({
      name: 'entrepot_cache_evicted_bytes_total',
      help: 'Bytes that evictions gave back to the disk.',
      labelNames: ['reason'] as const,
      registers,
    }),
    collections: new Counter({
      name: 'entrepot_collections_total',
      help: 'Garbage collections, by how they ended: done, broken_off or failed.',
      labelNames: ['result'] as const,
      registers,
    }),
    collectedBytes: new Counter({
      name: 'entrepot_collected_bytes_total',
      help: 'Bytes of pushed blobs and manifests that the disk got back.',
      registers,
    }),
    scrubbedBytes: new Counter({
      name: 'entrepot_scrubbed_bytes_total',
      help: 'Bytes of blobs that were read again and compared with their digests.',
      registers,
    }),
    scrubCorrupt: new Counter({
      name: 'entrepot_scrub_corrupt_total',
      help: 'Blobs that were found damaged, and pushed ones that were gone, by the scrub or by a pull.',
      labelNames: ['kind'] as const,
      registers,
    }),
    scrubOldestCheck: new Gauge({
      name: 'entrepot_scrub_oldest_check_seconds',
      help: 'How long ago the blob was checked whose check is longest ago.',
      registers,
    }),
    quarantinedBlobs: new Gauge({
      name: 'entrepot_quarantined_blobs',
      help: 'Pushed blobs and manifests that are damaged or gone: each is to be pushed again.',
      registers,
    }),
    notificationsQueued: new Gauge({
      name: 'entrepot_notifications_queued',
      help: 'Events that wait for an end-point.',
      labelNames: ['endpoint'] as const,
      registers,
    }),
    notificationsDelivered: new Counter({
      name: 'entrepot_notifications_delivered_total',
      help: 'Events that an end-point has taken.',
      labelNames: ['endpoint'] as const,
      registers,
    }),
    notificationsFailed: new Counter({
      name: 'entrepot_notifications_failed_total',
      help: 'Attempts to deliver an event that came to nothing; each is repeated.',
      labelNames: ['endpoint'] as const,
      registers,
    }),
    notificationsDropped: new Counter({
      name: 'entrepot_notifications_dropped_total',
      help: 'Events that an end-point will never be told of, because too many waited for it.',
      labelNames: ['endpoint'] as const,
      registers,
    }),
    outOfFiles: new Counter({
      name: 'entrepot_out_of_files_total',
      help: 'What met the limit of open files: a connection of a client or to an upstream, a file, a request.',
      labelNames: ['what'] as const,
      registers,
    }),
    failedWrites: new Counter({
      name: 'entrepot_metadata_write_failures_total',
      help: 'Metadata commits that failed; the answer was given all the same.',
      registers,
    }),
  }
}
