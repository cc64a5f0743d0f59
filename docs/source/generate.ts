/**
 * Writes the files that are generated: `npm run docs`. With `--check` it writes nothing and fails where one differs.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { generatedPages, ROOT } from './pages.ts'

const isCheck = process.argv.includes('--check')
for (const [file, text] of await generatedPages()) {
  const at = path.join(ROOT, file)
  if (!isCheck) writeFileSync(at, text)
  else if (readFileSync(at, 'utf8') !== text) {
    console.error(`${file} is not what docs/source gives: npm run docs`)
    process.exitCode = 1
  }
}
