/** Which upstream names without a registry go to, by what the configuration says and does not say. */
import { test } from 'tap'
import { loadConfig } from '../../src/config/schema.ts'

test('docker.io is the default, unless it says no or another upstream is', async (t) => {
  const rows: [upstreams: string, standard: string[]][] = [
    ['{ docker.io: {}, quay.io: {} }', ['docker.io']],
    ['{ quay.io: {}, docker.io: { url: "http://127.0.0.1:5001", default: } }', ['docker.io']],
    ['{ docker.io: { default: true } }', ['docker.io']],
    ['{ docker.io: { default: false }, quay.io: {} }', []],
    ['{ docker.io: {}, quay.io: { default: true } }', ['quay.io']],
    ['{ docker.io: {}, quay.io: { default: "${YES}" } }', ['quay.io']],
    ['{ docker.io: {}, quay.io: { default: false } }', ['docker.io']],
    ['{ docker.io: { default: false }, quay.io: { default: true } }', ['quay.io']],
    ['{ quay.io: {}, ghcr.io: {} }', []],
    // Whoever calls Docker Hub otherwise means it otherwise.
    ['{ hub.example: { url: "https://registry-1.docker.io" } }', []],
  ]
  for (const [upstreams, standard] of rows) {
    const found = loadConfig({ text: `upstreams: ${upstreams}`, env: { YES: 'true' } }).config.upstreams
    t.strictSame(
      found.filter((it) => it.default).map(({ key }) => key),
      standard,
      upstreams,
    )
    t.ok(found.every((it) => typeof it.default === 'boolean'))
  }
})
