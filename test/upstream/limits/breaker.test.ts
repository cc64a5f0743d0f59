/** When an upstream is left alone, and who may see whether it is back. */
import { test } from 'tap'
import { Breaker, type Asked, type Verdict } from '../../../src/upstream/limits/breaker.ts'

class Scene {
  now = 1_000
  /** Every change from closed to open and back. */
  readonly told: string[] = []
  readonly breaker = new Breaker({ now: () => this.now, onChange: ({ state }) => this.told.push(state) })

  ask(repository = 'team/app'): Asked {
    const asked = this.breaker.ask(repository)
    if (asked === undefined) throw new Error('refused')
    return asked
  }

  /** A question that takes a millisecond. */
  does(verdict: Verdict, repository?: string): void {
    const asked = this.ask(repository)
    this.now += 1
    asked.tell(verdict, verdict)
  }

  get state(): string {
    return this.breaker.status().state
  }
}

test('what opens it', (t) => {
  const errors = (count: number, ...repositories: string[]): [Verdict, string?][] =>
    Array.from({ length: count }, (_, n) => ['error', repositories[n % repositories.length] ?? ''])
  const cases: { what: string; verdicts: [Verdict, string?][]; ends: string }[] = [
    { what: 'an answer', verdicts: [['answer']], ends: 'closed' },
    { what: 'no connection', verdicts: [['no connection']], ends: 'open' },
    { what: 'no answer', verdicts: [['no answer']], ends: 'open' },
    { what: 'somebody who leaves', verdicts: [['nothing'], ['nothing']], ends: 'closed' },
    { what: 'four server errors of two repositories', verdicts: errors(4, 'a', 'b'), ends: 'closed' },
    { what: 'five server errors of two repositories', verdicts: errors(5, 'a', 'b'), ends: 'open' },
    { what: 'twenty server errors of one repository', verdicts: errors(20, 'a'), ends: 'closed' },
    {
      what: 'twenty of one, and then one of another',
      verdicts: [...errors(20, 'a'), ['error', 'b']],
      ends: 'open',
    },
    {
      what: 'five server errors with an answer in between',
      verdicts: [...errors(4, 'a', 'b'), ['answer'], ['error', 'a']],
      ends: 'closed',
    },
    {
      what: 'five server errors with one who leaves in between',
      verdicts: [...errors(4, 'a', 'b'), ['nothing'], ['error', 'a']],
      ends: 'open',
    },
  ]
  for (const { what, verdicts, ends } of cases) {
    const scene = new Scene()
    for (const [verdict, repository] of verdicts) scene.does(verdict, repository)
    t.equal(scene.state, ends, what)
    t.same(scene.told, ends === 'open' ? ['open'] : [], `${what}: it is told once`)
  }
  t.end()
})

test('a time-out counts only when nobody else was answered meanwhile', (t) => {
  const scene = new Scene()
  const slow = scene.ask()
  scene.now += 10
  scene.does('answer', 'team/other')
  slow.tell('no answer')
  t.equal(scene.state, 'closed', 'it answers others')

  const another = scene.ask()
  scene.now += 10
  scene.does('error', 'team/other')
  another.tell('no answer')
  t.equal(scene.state, 'closed', 'a server error is an answer in this respect')

  const refused = scene.ask()
  scene.now += 10
  scene.does('answer', 'team/other')
  refused.tell('no connection')
  t.equal(scene.state, 'open', 'what cannot be connected to any more is gone')
  t.end()
})

test('open, nobody may ask; then one at a time', (t) => {
  const scene = new Scene()
  scene.does('no connection')
  t.match(scene.breaker.status(), { state: 'open', forMs: 10_000, why: 'no connection' })
  t.equal(scene.breaker.ask('team/other'), undefined)
  scene.now += 9_999
  t.match(scene.breaker.status(), { state: 'open', forMs: 1 }, 'it tells when somebody may try')
  t.equal(scene.breaker.ask('team/other'), undefined)

  scene.now += 1
  t.match(scene.breaker.status(), { state: 'half-open', forMs: 0 })
  const probe = scene.ask()
  t.equal(scene.breaker.ask('team/other'), undefined, 'one probe is enough')
  t.match(scene.breaker.status(), { state: 'half-open', forMs: 1_000 })

  probe.tell('nothing')
  const second = scene.ask('team/other')
  t.equal(scene.breaker.ask('team/app'), undefined, 'who left is followed by one other')
  second.tell('answer')
  t.same(scene.breaker.status(), { state: 'closed' })
  t.same(scene.told, ['open', 'closed'])
  const both = [scene.ask(), scene.ask()]
  t.equal(both.length, 2, 'everybody may ask again')
  t.end()
})

test('every probe that fails doubles the silence, up to five minutes; an answer makes it short again', (t) => {
  const scene = new Scene()
  scene.does('no connection')
  const silences: (number | undefined)[] = []
  for (let n = 0; n < 7; n++) {
    const { forMs = 0 } = scene.breaker.status()
    silences.push(forMs)
    scene.now += forMs
    scene.ask().tell('no answer', 'still nothing')
  }
  t.same(silences, [10_000, 20_000, 40_000, 80_000, 160_000, 300_000, 300_000])
  t.equal(scene.breaker.status().why, 'still nothing')
  t.same(scene.told, ['open'], 'all of it is one outage')
  scene.now += 300_000
  scene.does('answer')
  scene.does('no connection')
  t.equal(scene.breaker.status().forMs, 10_000)
  t.end()
})

test('a server error proves that it is there, unless such errors opened it', (t) => {
  const scene = new Scene()
  scene.does('no connection')
  scene.now += 10_000
  scene.does('error')
  t.equal(scene.state, 'closed')
  for (const repository of ['a', 'b', 'a', 'b']) scene.does('error', repository)
  t.equal(scene.state, 'open', 'the first of a row of five')
  scene.now += 10_000
  scene.does('error', 'c')
  t.match(scene.breaker.status(), { state: 'open', forMs: 20_000 })
  t.end()
})

test('those who had asked before it opened', (t) => {
  const scene = new Scene()
  const [early, late, lucky] = [scene.ask(), scene.ask(), scene.ask()]
  scene.now += 1
  early.tell('no connection')
  scene.now += 5_000
  late.tell('no connection')
  t.equal(scene.breaker.status().forMs, 5_000, 'tell nothing new when they fail')
  lucky.tell('answer')
  t.equal(scene.state, 'closed', 'close it when they are answered')
  t.end()
})

test('what clients were promised is asked for all the same, and is no probe', (t) => {
  const scene = new Scene()
  scene.does('no connection')
  const insists = { force: true }
  const first = scene.breaker.ask('team/app', insists)
  t.ok(first, 'while it is open')
  first?.tell('no connection')
  t.equal(scene.breaker.status().forMs, 10_000, 'its failure makes nothing worse')
  scene.now += 10_000
  const second = scene.breaker.ask('team/app', insists)
  const probe = scene.breaker.ask('team/other')
  t.ok(probe, 'the probe is still to be had')
  t.ok(scene.breaker.ask('team/app', insists), 'while somebody else probes')
  second?.tell('answer')
  t.equal(scene.state, 'closed', 'an answer is an answer')
  probe?.tell('no answer')
  t.equal(scene.state, 'closed', 'and later than the beginning of the probe')
  t.end()
})
