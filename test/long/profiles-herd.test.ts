import { test } from 'tap'
import { stampede } from '../support/profiles/herd.ts'
import { PROFILES, type ProfileName } from '../support/profiles/start.ts'

for (const name of Object.keys(PROFILES) as ProfileName[]) {
  test(`${name}: twenty clients at once cost what one costs`, async (t) => {
    const { wrong, given } = await stampede(t, name, 20)
    t.equal(wrong, 0)
    t.strictSame(given.manifest, { all: 3, most: 1 })
    t.strictSame(given.blob, { all: 5, most: 1 })
    t.ok(given.token.all <= 1, `${given.token.all} tokens`)
  })
}
