/** What an upstream does not have is remembered for a while, each kind of it apart from the others. */
import { test } from 'tap'
import { NegativeCache } from '../../src/cache/negative-cache.ts'
import { parseReference, parseRepositoryName, type Tag } from '../../src/oci/reference.ts'

const app = parseRepositoryName('library/app')
const one = parseReference('1') as Tag

test('an absence ends by itself, or when it is forgotten', (t) => {
  let now = 1_000
  const absent = new NegativeCache(() => now)
  absent.remember(10, 'manifest', app, one)
  now += 9
  t.ok(absent.has('manifest', app, one))
  now += 1
  t.notOk(absent.has('manifest', app, one))
  absent.remember(10, 'manifest', app, one)
  absent.forget('manifest', app, one)
  t.notOk(absent.has('manifest', app, one))
  t.end()
})

test('one kind says nothing of another, nor one name of another', (t) => {
  const absent = new NegativeCache(() => 0)
  absent.remember(10, 'repository', app)
  absent.remember(10, 'head', app, one)
  absent.remember(10, 'list', app, 'tags')
  t.ok(absent.has('repository', app))
  t.notOk(absent.has('repository', parseRepositoryName('library')))
  t.ok(absent.has('head', app, one))
  t.notOk(absent.has('manifest', app, one))
  t.notOk(absent.has('kept tag', app, one))
  t.notOk(absent.has('kept list', app, 'tags'))
  t.notOk(absent.has('list', parseRepositoryName('app'), 'tags'))
  t.end()
})
