/**
 * What all emulated clients have in common: what they pull, what they keep, and how a pull is reported.
 *
 * A client believes nobody: what it keeps has the digest it was asked by. An emulator knows what the real client
 * would know and nothing else.
 */
import { algorithmOf, digestOf, isDigest } from '../../../src/oci/digest.ts'
import { Strand } from './strand.ts'
import {
  describe,
  HungError,
  PullError,
  Wire,
  type Answer,
  type Endpoint,
  type Exchange,
  type Head,
} from './wire.ts'

export interface Descriptor {
  readonly mediaType: string
  readonly digest: string
  readonly size: number
  readonly artifactType?: string
  readonly annotations?: Readonly<Record<string, string>>
}

export interface Pulling {
  readonly strand: Strand
  readonly shelf: Shelf
  /** What the mirror stands for: `docker.io`. */
  readonly registry: string
  readonly repository: string
  readonly tag: string
}

export interface Client {
  readonly name: string
  /** What it asks the other endpoint for when the mirror fails; `manifests`: only as long as it has none. */
  readonly elsewhere: 'everything' | 'manifests' | 'nothing'
  readonly keepAlive: boolean
  /**
   * The command of that client: a pull, or something else that it does with the image.
   *
   * @throws PullError
   */
  readonly pull: (pulling: Pulling) => Promise<void>
}

/** An answer that the client cannot use. */
export class RefusedError extends PullError {
  override readonly name = 'RefusedError'
  readonly status: number
  /** Of the OCI error in the body, where there is one. */
  readonly code: string | undefined

  constructor(exchange: Exchange, reason: string, code?: string) {
    super(`${describe(exchange)}: ${reason}`)
    this.status = exchange.status
    this.code = code
  }
}

export class WrongBytesError extends PullError {
  override readonly name = 'WrongBytesError'
}

/** A blob on its way in, and who sent which part of it. */
export class Download {
  #pieces: { readonly endpoint: Endpoint; readonly bytes: Buffer }[] = []
  size = 0

  add(endpoint: Endpoint, bytes: Buffer): void {
    this.#pieces.push({ endpoint, bytes })
    this.size += bytes.length
  }

  clear(): void {
    this.#pieces = []
    this.size = 0
  }

  copy(): Download {
    const copy = new Download()
    for (const { endpoint, bytes } of this.#pieces) copy.add(endpoint, bytes)
    return copy
  }

  bytes(): Buffer {
    return Buffer.concat(this.#pieces.map(({ bytes }) => bytes))
  }

  from(endpoint: Endpoint): number {
    return this.#pieces.reduce((sum, it) => sum + (it.endpoint === endpoint ? it.bytes.length : 0), 0)
  }
}

/** What the client has verified and kept. */
export class Shelf {
  readonly contents = new Map<string, Download>()
  /** What came and was not what it should be. */
  readonly rejected: Download[] = []
  /** Of the repository, as they were listed for the client. */
  tags: readonly string[] | undefined
  /** Digests, where finding them was all that the client wanted. */
  referrers: readonly string[] | undefined

  has(digest: string): boolean {
    return this.contents.has(digest)
  }

  /** @throws WrongBytesError */
  keep(digest: string, download: Download): void {
    if (!isDigest(digest)) throw new PullError(`not a digest: ${digest}`)
    if (digestOf(download.bytes(), algorithmOf(digest)) !== digest) {
      this.rejected.push(download.copy())
      throw new WrongBytesError(`the ${String(download.size)} bytes that came are not ${digest}`)
    }
    this.contents.set(digest, download)
  }
}

/** @throws RefusedError unless the status is one of the 200s */
export async function expectOk(answer: Answer): Promise<Answer> {
  if (answer.ok) return answer
  throw await refusalOf(answer)
}

export async function refusalOf(answer: Answer): Promise<RefusedError> {
  const body = await answer.bytes().catch(() => Buffer.alloc(0))
  return new RefusedError(answer.exchange, String(answer.status), codeOf(body))
}

function codeOf(body: Buffer): string | undefined {
  try {
    const { errors } = JSON.parse(body.toString()) as { errors?: { code?: string }[] }
    return errors?.[0]?.code
  } catch {
    return undefined
  }
}

/** One `Accept` line for each. */
export function acceptLines(types: readonly string[]): Head {
  return types.map((type) => ['Accept', type] as const)
}

export interface ParsedManifest {
  /** Of an index: the child for linux/amd64. */
  readonly child: Descriptor | undefined
  readonly config: Descriptor | undefined
  readonly layers: readonly Descriptor[]
}

/** @throws PullError when there is nothing for us in it */
export function readManifest(bytes: Buffer): ParsedManifest {
  let parsed: {
    manifests?: (Descriptor & { platform?: { architecture: string } })[]
    config?: Descriptor
    layers?: Descriptor[]
  }
  try {
    parsed = JSON.parse(bytes.toString()) as typeof parsed
  } catch {
    throw new PullError('a manifest that is no JSON')
  }
  const child = parsed.manifests?.find(({ platform }) => platform?.architecture === 'amd64')
  if (child === undefined && parsed.config === undefined) throw new PullError('no matching manifest')
  return { child, config: parsed.config, layers: parsed.layers ?? [] }
}

/** @throws PullError when it is no index */
export function readReferrers(bytes: Buffer): readonly Descriptor[] {
  try {
    const { manifests } = JSON.parse(bytes.toString()) as { manifests?: Descriptor[] | null }
    return manifests ?? []
  } catch {
    throw new PullError('a list of referrers that is no JSON')
  }
}

export interface Outcome {
  readonly ending: 'pulled' | 'failed' | 'hung'
  readonly error: Error | undefined
  readonly shelf: Shelf
  readonly exchanges: readonly Exchange[]
  /** What the real client would have needed. */
  readonly tookMs: number
  /** 0 to 1: how much of what was kept came from the mirror. */
  readonly share: number
}

export interface RunOptions {
  readonly mirror: string
  readonly real: string
  /** Default `docker.io`. */
  readonly registry?: string
  readonly repository: string
  readonly tag: string
  /** Default 10 s. */
  readonly hangMs?: number
  /** What the client has from an earlier pull. Default: nothing yet. */
  readonly shelf?: Shelf
}

/** One pull, or whatever that client does instead. */
export async function run(client: Client, options: RunOptions): Promise<Outcome> {
  const { mirror, real, registry = 'docker.io', repository, tag, hangMs = 10_000 } = options
  const { shelf = new Shelf() } = options
  const { keepAlive } = client
  const wire = new Wire({ endpoints: { mirror, real }, keepAlive, hangMs })
  const strand = new Strand(wire, new AbortController().signal)
  const startedAt = performance.now()
  let error: Error | undefined
  try {
    await Promise.race([client.pull({ strand, shelf, registry, repository, tag }), wire.hung])
  } catch (failure) {
    if (!(failure instanceof PullError || failure instanceof HungError)) throw failure
    error = failure
  } finally {
    wire.close()
  }
  const kept = [...shelf.contents.values()]
  const total = kept.reduce((sum, it) => sum + it.size, 0)
  const ours = kept.reduce((sum, it) => sum + it.from('mirror'), 0)
  return {
    ending: error === undefined ? 'pulled' : error instanceof HungError ? 'hung' : 'failed',
    error,
    shelf,
    exchanges: wire.exchanges,
    tookMs: performance.now() - startedAt + strand.late,
    share: total === 0 ? 0 : ours / total,
  }
}
