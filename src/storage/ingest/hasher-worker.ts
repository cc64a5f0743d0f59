/**
 * Worker thread that hashes growing files, by positional reads on their descriptors, as far as it is told.
 *
 * Files take turns of 4 MiB, so a layer of gigabytes does not starve a small one. The thread uses a descriptor until
 * its last message about the job (`digest`, `failed` or `released`), never after it.
 */
import type { Bytes } from '../../base/units.ts'
import { createHash, type Hash } from 'node:crypto'
import { readSync } from 'node:fs'
import { parentPort } from 'node:worker_threads'
import type { DigestAlgorithm } from '../../oci/digest.ts'
import type { Descriptor } from '../files/files.ts'

export type HasherRequest =
  | {
      readonly type: 'open'
      readonly job: number
      readonly algorithm: DigestAlgorithm
      readonly file: Descriptor
    }
  /** The bytes before `upTo` are there. */
  | { readonly type: 'advance'; readonly job: number; readonly upTo: Bytes }
  /** Like `advance`, with the final size. */
  | { readonly type: 'finish'; readonly job: number; readonly size: Bytes }
  | { readonly type: 'cancel'; readonly job: number }

export type HasherReply =
  | { readonly type: 'progress'; readonly job: number; readonly hashed: Bytes }
  | { readonly type: 'digest'; readonly job: number; readonly hex: string }
  | { readonly type: 'failed'; readonly job: number; readonly message: string }
  | { readonly type: 'released'; readonly job: number }

interface Job {
  readonly file: Descriptor
  readonly hash: Hash
  hashed: Bytes
  upTo: Bytes
  last: boolean
}

const TURN = 4 * 1024 * 1024
const buffer = Buffer.allocUnsafeSlow(256 * 1024)
const jobs = new Map<number, Job>()
let scheduled = false

parentPort?.on('message', (request: HasherRequest) => {
  const { job: id } = request
  const job = jobs.get(id)
  switch (request.type) {
    case 'open': {
      const hash = createHash(request.algorithm)
      jobs.set(id, { file: request.file, hash, hashed: 0, upTo: 0, last: false })
      break
    }
    case 'advance':
      if (job) job.upTo = Math.max(job.upTo, request.upTo)
      break
    case 'finish':
      if (job) {
        job.upTo = request.size
        job.last = true
      }
      break
    case 'cancel':
      if (jobs.delete(id)) reply({ type: 'released', job: id })
  }
  schedule()
})

/** Runs each turn from the event loop, so that messages arrive between two turns. */
function schedule(): void {
  if (scheduled) return
  scheduled = true
  setImmediate(() => {
    scheduled = false
    const next = [...jobs].find(([, job]) => job.last || job.hashed < job.upTo)
    if (!next) return
    const [id, job] = next
    // Round-robin: the job goes to the end of the queue.
    jobs.delete(id)
    jobs.set(id, job)
    turn(id, job)
    schedule()
  })
}

function turn(id: number, job: Job): void {
  try {
    const stop = Math.min(job.upTo, job.hashed + TURN)
    while (job.hashed < stop) {
      const count = readSync(job.file, buffer, 0, Math.min(buffer.length, stop - job.hashed), job.hashed)
      if (count === 0) throw new Error('the file is shorter than was written to it')
      job.hash.update(buffer.subarray(0, count))
      job.hashed += count
    }
    if (job.last && job.hashed === job.upTo) {
      jobs.delete(id)
      reply({ type: 'digest', job: id, hex: job.hash.digest('hex') })
    } else {
      reply({ type: 'progress', job: id, hashed: job.hashed })
    }
  } catch (error) {
    jobs.delete(id)
    reply({ type: 'failed', job: id, message: String(error) })
  }
}

function reply(message: HasherReply): void {
  parentPort?.postMessage(message)
}
