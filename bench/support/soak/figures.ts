/**
 * What a running entrepot says of itself, what the kernel says of it, and what lies on the disk.
 */
import { readdirSync, statSync } from 'node:fs'
import path from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { residentBytes } from '../measured.ts'
import { metricsOf } from '../metrics.ts'
import type { Server } from '../server.ts'

/** Of a busy minute, and of another one: buffers come and go. */
const RESIDENT_TOLERANCE = 1.25

export interface Sample {
  readonly residentBytes: number
  readonly descriptors: number
  /** Since the last sample; what a timer of 10 ms is late by is in it, and so are those 10 ms. */
  readonly lagP99Ms: number
  readonly mirroredBytes: number
  readonly pushedBytes: number
  readonly evictedBytes: number
  readonly scrubbedBytes: number
  readonly fills: number
}

export async function sampleOf(server: Server): Promise<Sample> {
  const metric = await metricsOf(server.url)
  return {
    residentBytes: residentBytes(server.pid),
    descriptors: readdirSync(`/proc/${String(server.pid)}/fd`).length,
    lagP99Ms: metric('nodejs_eventloop_lag_p99_seconds') * 1000,
    mirroredBytes: metric('entrepot_cache_bytes'),
    pushedBytes: metric('entrepot_pushed_bytes'),
    evictedBytes: metric('entrepot_cache_evicted_bytes_total'),
    scrubbedBytes: metric('entrepot_scrubbed_bytes_total'),
    fills: metric('entrepot_fills_in_flight'),
  }
}

/** What a listing of the folders adds up to, and what the index keeps of upstreams' answers. */
export interface Disk {
  readonly blobs: number
  /** Parts of downloads. */
  readonly parts: number
  /** Parts of pushes: nobody's budget. */
  readonly uploads: number
  /** Lists and "there is none", as they weigh in the budget. */
  readonly answers: number
}

export function diskOf(root: string): Disk {
  const disk = { blobs: 0, parts: 0, uploads: 0, answers: answersIn(path.join(root, 'metadata.sqlite')) }
  for (const { size } of filesBelow(path.join(root, 'blobs'))) disk.blobs += size
  for (const { name, size } of filesBelow(path.join(root, 'ingest'))) {
    if (name.startsWith('upload-')) disk.uploads += size
    else if (name.endsWith('.part')) disk.parts += size
  }
  return disk
}

function answersIn(index: string): number {
  const database = new DatabaseSync(index, { readOnly: true })
  try {
    const row = database.prepare('SELECT coalesce(sum(weight), 0) AS bytes FROM upstream_answer').get()
    return Number(row?.['bytes'])
  } finally {
    database.close()
  }
}

function filesBelow(folder: string): { name: string; size: number }[] {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map(({ name, parentPath }) => ({ name, size: sizeOf(path.join(parentPath, name)) }))
}

function sizeOf(file: string): number {
  try {
    return statSync(file).size
  } catch {
    // Gone since it was listed.
    return 0
  }
}

/** Sentences: what is held at the end, and was not when everything was warm. */
export function growthIn(start: Sample, end: Sample): string[] {
  return [
    ...(end.residentBytes > start.residentBytes * RESIDENT_TOLERANCE
      ? [`${String(end.residentBytes)} bytes resident instead of ${String(start.residentBytes)}`]
      : []),
    // Then there were clients; now there are none.
    ...(end.descriptors > start.descriptors
      ? [`${String(end.descriptors)} descriptors instead of ${String(start.descriptors)}`]
      : []),
  ]
}
