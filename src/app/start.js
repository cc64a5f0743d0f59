#!/usr/bin/env node
/** Entry point of `npm start`: plain JavaScript, because an older Node could not even parse main.ts to say why. */

// `npm start` also gives the allocator two arenas, and V8 a small young generation and an old one that is collected
// early: transfers use buffers outside of V8's heap, and without the three some 90 MB of them stay resident for
// nothing (measured with 200 slow clients). `--expose-gc` is for storage/ingest/release-buffers.ts.
import module from 'node:module'
import path from 'node:path'
import process from 'node:process'

if (Number.parseInt(process.versions.node, 10) < 24) {
  process.stderr.write(
    `entrepot needs Node 24 or newer, and this is ${process.versions.node}: ` +
      'run "npm ci" with its dev dependencies, which bring one, and then "npm start".\n',
  )
  process.exitCode = 1
} else {
  // Node reads it at its first thread, so it is set before anything else is loaded. Five concurrent syncs stall the
  // default of four threads for a second.
  process.env['UV_THREADPOOL_SIZE'] ??= '16'
  // Stripping types at every start costs 0.4 s and 23 MB; a folder that cannot be written only costs that.
  module.enableCompileCache(path.join(import.meta.dirname, '../../node_modules/.cache/compile'))
  await import('./main.ts')
}
