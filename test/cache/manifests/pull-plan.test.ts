/** Which fact decides what a pull of a tag does. */
import { test } from 'tap'
import { planPull, type Plan, type PullFacts } from '../../../src/cache/manifests/pull-plan.ts'

const OLD: PullFacts = { absent: undefined, fresh: false, ageMs: 100, staleForMs: 1_000 }

const CASES: readonly (readonly [string, Partial<PullFacts>, Plan])[] = [
  ['an old tag is asked about', {}, 'ask'],
  ['what upstream has not goes before all else', { absent: 'manifest', fresh: true, kept: true }, 'absent'],
  ['a repository that upstream has not is told apart', { absent: 'repository' }, 'unknown repository'],
  ['what is believed answers, whatever is known of upstream', { fresh: true, failingForMs: 0 }, 'fresh'],
  ['what is gone and kept answers before upstream is asked', { kept: true, spared: true }, 'kept'],
  ['no pull is spent while something can answer', { spared: true, failingForMs: 1_000 }, 'spared'],
  ['what is too old is fetched, however few pulls are left', { spared: true, ageMs: 1_001 }, 'ask'],
  ['where nothing is here, pulls cannot be spared', { spared: true, ageMs: undefined }, 'ask'],
  ['an upstream that fails is not waited for', { failingForMs: 100 }, 'stale'],
  ['where nothing can answer it is asked all the same', { failingForMs: 99 }, 'ask'],
  ['where nothing is here, too', { failingForMs: Infinity, ageMs: undefined }, 'ask'],
  ['what a HEAD told counts', { moved: true }, 'moved'],
  ['it counts where nothing is here, too', { moved: true, ageMs: undefined }, 'moved'],
  ['not while upstream fails: what is here answers', { moved: true, failingForMs: 1_000 }, 'stale'],
  ['nor where what is here is too old then', { moved: true, failingForMs: 0 }, 'ask'],
]

for (const [what, facts, plan] of CASES) {
  test(what, (t) => {
    t.equal(planPull({ ...OLD, ...facts }), plan)
    t.end()
  })
}

test('the first facts are enough for what they decide', (t) => {
  t.equal(planPull({ absent: undefined, fresh: true }), 'fresh')
  t.equal(planPull({ absent: undefined, fresh: false }), 'ask')
  t.end()
})
