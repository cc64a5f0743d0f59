#!/usr/bin/env node
// Where `npm start` begins: plain JavaScript, because an older Node could not even parse main.ts to say why.
import process from 'node:process'

if (Number.parseInt(process.versions.node, 10) < 24) {
  process.stderr.write(
    `entrepot needs Node 24 or newer, and this is ${process.versions.node}: ` +
      'run "npm ci" with its dev dependencies, which bring one, and then "npm start".\n',
  )
  process.exitCode = 1
} else {
  // Read when the first thread is needed, so before anything else is loaded. Five concurrent syncs stall
  // the usual four for a second.
  process.env['UV_THREADPOOL_SIZE'] ??= '16'
  await import('./main.ts')
}
