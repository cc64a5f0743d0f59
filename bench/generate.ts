/**
 * Fills a folder as years of pulls and pushes would, for `bench/start.ts` and whoever wants to look at such a one.
 *
 *     node bench/generate.ts FOLDER [--blobs 200000] [--tags 20000] [--repositories 4000] [--pushed 40]
 *                                   [--layers sparse|absent]
 *
 * FOLDER becomes a `storage.root`. What is in it and what is not: `bench/support/warehouse.ts`. One JSON line.
 */
import { parseArgs } from 'node:util'
import { fillWarehouse } from './support/warehouse.ts'

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    blobs: { type: 'string', default: '200000' },
    tags: { type: 'string', default: '20000' },
    repositories: { type: 'string', default: '4000' },
    pushed: { type: 'string', default: '40' },
    layers: { type: 'string', default: 'sparse' },
  },
})
const [root] = positionals
if (root === undefined) throw new Error('which folder?')
const { layers } = values
if (layers !== 'sparse' && layers !== 'absent') throw new Error('--layers is sparse or absent')
const { blobs, bytes, seconds } = await fillWarehouse({
  root,
  blobs: Number(values.blobs),
  tags: Number(values.tags),
  repositories: Number(values.repositories),
  pushed: Number(values.pushed),
  layers,
})
const line = {
  blobs,
  tags: Number(values.tags),
  GB: Number((bytes / 1e9).toFixed(1)),
  seconds: Math.round(seconds),
}
console.log(JSON.stringify({ bench: 'generate', ...line }))
