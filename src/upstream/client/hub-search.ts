/**
 * Client of Docker Hub's search, which has another host than its registry, and limits of its own. Always anonymous.
 *
 * A term is sent at most once a minute, whatever its result, and its first page serves all clients. A failed search
 * gives its former result, or none; after a failure no search is sent for a while.
 * API: GET /v2/search/repositories/?query=…
 */
import type { Bytes, Milliseconds } from '../../base/units.ts'
import { LRUCache } from 'lru-cache'
import type { Logger } from 'pino'
import { isObject, parseJsonObject, type Selection } from '../../oci/json.ts'
import type { Metrics } from '../../telemetry/metrics.ts'
import { AddressRule } from '../transport/address-policy.ts'
import { brokenAnswer, refusalOf } from '../transport/responses.ts'
import { USER_AGENT } from './requester.ts'
import { readBody } from '../transport/response-body.ts'
import { abandonable } from '../../base/condition.ts'
import type { ProxyChoice } from '../transport/proxy.ts'
import { Transport } from '../transport/transport.ts'
import { UpstreamError } from '../upstream.ts'

interface HubRepository {
  /** Without a registry: `library/nginx`, `bitnami/nginx`. Not checked. */
  readonly name: string
  readonly description: string
  readonly stars: number
  readonly official: boolean
  readonly automated: boolean
}

interface HubSearchOptions extends ProxyChoice {
  /** The label of metrics and messages. */
  readonly key: string
  /** Origin of the API. */
  readonly url: string
  readonly metrics: Metrics
  readonly log: Logger
  /** Monotonic. */
  readonly now: () => Milliseconds
}

/** Limit for the whole answer, for which a person waits. */
const PATIENCE: Milliseconds = 2000
const KEPT_FOR: Milliseconds = 60_000
/** The pause after a failure, unless `Retry-After` is longer. */
const REST_AFTER_FAILURE: Milliseconds = 10_000
/** The most memory for results, and what each takes beside its texts. */
const TERMS_WEIGHT: Bytes = 4 * 1024 * 1024
const RESULT_WEIGHT: Bytes = 256
/** The most searches in flight; a further one is not sent. */
const MOST_AT_ONCE = 4
/** Docker Hub's largest page. */
const PAGE_SIZE = 100
const MAX_BYTES = 1024 * 1024
const MAX_ITEMS = 10_000
const RESULT: Selection = {
  members: {
    repo_name: 'scalar',
    short_description: 'scalar',
    star_count: 'scalar',
    is_official: 'scalar',
    is_automated: 'scalar',
  },
}
const RESULTS: Selection = { members: { results: { each: RESULT, most: PAGE_SIZE } } }

export class HubSearch {
  readonly #options: HubSearchOptions
  readonly #url: URL
  readonly #transport: Transport
  readonly #found: LRUCache<string, readonly HubRepository[]>
  #underWay = 0
  #restUntil: Milliseconds = -Infinity

  constructor(options: HubSearchOptions) {
    this.#options = options
    this.#url = new URL('/v2/search/repositories/', options.url)
    this.#transport = new Transport({
      ...options,
      maxConnections: MOST_AT_ONCE,
      timeouts: { connect: PATIENCE, headers: PATIENCE, idle: PATIENCE },
      addresses: new AddressRule(this.#url),
    })
    this.#found = new LRUCache({
      maxSize: TERMS_WEIGHT,
      sizeCalculation: (found, term) => term.length + weightOf(found),
      ttl: KEPT_FOR,
      ttlResolution: 0,
      perf: { now: options.now },
      fetchMethod: async (term, before, { options: entry }) => {
        const rest = this.#restUntil - options.now()
        if (rest > 0 || this.#underWay >= MOST_AT_ONCE) {
          entry.ttl = Math.min(Math.max(rest, 1), KEPT_FOR)
          return before ?? []
        }
        return (await this.#ask(term)) ?? before ?? []
      },
    })
  }

  /** @throws only the signal's reason */
  async search(term: string, signal: AbortSignal): Promise<readonly HubRepository[]> {
    return (await abandonable(this.#found.fetch(term), signal)) ?? []
  }

  /** Aborts the searches in flight. */
  async close(): Promise<void> {
    await this.#transport.close()
  }

  /** @returns undefined when it failed */
  async #ask(term: string): Promise<readonly HubRepository[] | undefined> {
    const { log, now } = this.#options
    this.#underWay += 1
    try {
      return await this.#request(term)
    } catch (err) {
      const asked = err instanceof UpstreamError ? err.retryAfterMs : undefined
      this.#restUntil = now() + Math.max(asked ?? 0, REST_AFTER_FAILURE)
      log.warn({ err }, 'the search of Docker Hub failed')
      return undefined
    } finally {
      this.#underWay -= 1
    }
  }

  async #request(term: string): Promise<readonly HubRepository[]> {
    const { key } = this.#options
    const url = new URL(this.#url)
    url.search = new URLSearchParams({ query: term, page: '1', page_size: String(PAGE_SIZE) }).toString()
    const response = await this.#transport.send({
      kind: 'search',
      method: 'GET',
      url,
      headers: { 'user-agent': USER_AGENT, 'accept-encoding': 'identity', accept: 'application/json' },
      signal: AbortSignal.timeout(PATIENCE),
    })
    if (response.status !== 200) throw refusalOf(key, response)
    const bytes = await readBody(response.body, MAX_BYTES)
    if (bytes === undefined) throw brokenAnswer(key, response, 'gave more than a page of results')
    const { results } = parseJsonObject(bytes, MAX_ITEMS, RESULTS)
    if (!Array.isArray(results)) throw brokenAnswer(key, response, 'gave no list of results')
    return results.slice(0, PAGE_SIZE).flatMap(repositoryOf)
  }
}

function weightOf(found: readonly HubRepository[]): Bytes {
  return found.reduce(
    (weight, { name, description }) => weight + RESULT_WEIGHT + name.length + description.length,
    RESULT_WEIGHT,
  )
}

function repositoryOf(result: unknown): HubRepository[] {
  if (!isObject(result) || typeof result['repo_name'] !== 'string') return []
  const name = result['repo_name']
  const description = result['short_description']
  const stars = result['star_count']
  return [
    {
      name: name.includes('/') ? name : `library/${name}`,
      description: typeof description === 'string' ? description : '',
      stars: Number.isSafeInteger(stars) ? (stars as number) : 0,
      official: result['is_official'] === true,
      automated: result['is_automated'] === true,
    },
  ]
}
