/**
 * Durable cache of upstream's answers other than content: lists, and "there is none" (a negative cache).
 *
 * It lives in the index, within a weight of its own, so that a client's questions never take the space of images.
 * An answer that cannot be recorded is given all the same, and asked for again.
 */
import type { Bytes, Milliseconds } from '../../base/units.ts'
import { LRUCache } from 'lru-cache'
import type { Logger } from 'pino'
import type { MetadataStore, RepositoryKey } from '../../storage/metadata/metadata.ts'
import { turnFor } from '../../base/turns.ts'
import {
  answerWeight,
  type NewUpstreamAnswer,
  type UpstreamAnswer,
  type UpstreamQuestion,
} from '../../storage/metadata/upstream-answer-index.ts'
import type { DiskSpace } from '../eviction/disk-space.ts'

/** A larger body is not cached: reading it takes some 30 ms. It holds 50,000 tags of a common length. */
export const MAX_KEPT_BODY: Bytes = 1024 * 1024

/** A trim goes below the limit, so that the next write does not begin another one. */
const TRIM_TO = 0.9

/** Weight of the parsed lists in memory; an array of strings takes several times the size of its JSON. */
const HOT_WEIGHT: Bytes = 32 * 1024 * 1024
const PARSED_FACTOR = 4

interface AnswerCacheOptions {
  readonly metadata: Pick<MetadataStore, 'upstreamAnswers' | 'transaction'>
  readonly diskSpace: Pick<DiskSpace, 'changed'>
  readonly log: Logger
  readonly now: () => Milliseconds
  /** Limit for all answers in the index. */
  readonly maxWeight: () => Bytes
}

export class AnswerCache {
  readonly #options: AnswerCacheOptions
  readonly #hot = new LRUCache<string, { readonly value: object }>({ maxSize: HOT_WEIGHT })
  /** Estimated weight of the answers in the index; undefined: it has to be read. */
  #weight: Bytes | undefined

  constructor(options: AnswerCacheOptions) {
    this.#options = options
  }

  get(repository: RepositoryKey, question: UpstreamQuestion): Promise<UpstreamAnswer | undefined> {
    return this.#options.metadata.upstreamAnswers.get(repository, question)
  }

  /**
   * The parsed body of that answer, parsed once for all clients.
   *
   * @returns undefined when it is not there any more, or cannot be parsed
   */
  async value<T extends object>(
    repository: RepositoryKey,
    question: UpstreamQuestion,
    { storedAt, bodySize }: UpstreamAnswer,
    parse: (body: Buffer) => T | undefined,
  ): Promise<T | undefined> {
    if (bodySize === undefined) return undefined
    const key = hotKey(repository, question, storedAt, bodySize)
    const hot = this.#hot.get(key)
    if (hot !== undefined) return hot.value as T
    const body = await this.#options.metadata.upstreamAnswers.body(repository, question)
    await turnFor(bodySize)
    const value = body === undefined ? undefined : parse(body)
    if (value !== undefined) this.#hot.set(key, { value }, { size: hotSize(bodySize) })
    return value
  }

  /** Caches the parsed body that was just written, so that the next request need not read it. */
  warm(
    repository: RepositoryKey,
    question: UpstreamQuestion,
    at: Milliseconds,
    body: Buffer,
    value: object,
  ): void {
    this.#hot.set(hotKey(repository, question, at, body.length), { value }, { size: hotSize(body.length) })
  }

  /** Resolves when it is recorded, or when that failed. */
  async put(
    repository: RepositoryKey,
    question: UpstreamQuestion,
    answer: NewUpstreamAnswer,
    at: Milliseconds,
  ): Promise<void> {
    const { metadata, diskSpace: room, log, maxWeight } = this.#options
    try {
      if (this.#weight === undefined) {
        const weight = await metadata.upstreamAnswers.weight()
        this.#weight ??= weight
      }
      this.#weight += answerWeight(answer)
      const full = this.#weight > maxWeight()
      // Trimmed and replaced answers are not subtracted here: the next write reads the weight anew.
      if (full) this.#weight = undefined
      await metadata.transaction((tx) => {
        tx.putUpstreamAnswer(repository, question, answer, at)
        if (full) tx.trimUpstreamAnswers(Math.floor(maxWeight() * TRIM_TO))
      })
      room.changed()
    } catch (error) {
      log.debug({ err: error }, 'what upstream answered was not remembered')
    }
  }

  /** Undefined when it is not there any more. */
  body(repository: RepositoryKey, question: UpstreamQuestion): Promise<Buffer | undefined> {
    return this.#options.metadata.upstreamAnswers.body(repository, question)
  }

  /** Records that upstream has confirmed the answer. Resolves as {@link put} does. */
  async confirm(
    repository: RepositoryKey,
    question: UpstreamQuestion,
    { storedAt }: UpstreamAnswer,
    at: Milliseconds,
  ): Promise<void> {
    const { metadata, log } = this.#options
    try {
      await metadata.transaction((tx) => tx.confirmUpstreamAnswer(repository, question, storedAt, at))
    } catch (error) {
      log.debug({ err: error }, 'what upstream confirmed was not remembered')
    }
  }
}

function hotKey(
  { registry, name }: RepositoryKey,
  question: UpstreamQuestion,
  storedAt: Milliseconds,
  size: Bytes,
): string {
  return `${registry}/${name} ${question} ${String(storedAt)} ${String(size)}`
}

function hotSize(bodySize: Bytes): Bytes {
  return bodySize * PARSED_FACTOR + 1
}
