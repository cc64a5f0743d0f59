import { test } from 'tap'
import { matchesAny } from '../../src/oci/glob.ts'

const rows: [glob: string, name: string, matches: boolean][] = [
  ['library/nginx', 'library/nginx', true],
  ['library/nginx', 'library/nginx-unit', false],
  ['*', 'nginx', true],
  ['*', 'library/nginx', false],
  ['library/*', 'library/nginx', true],
  ['library/*', 'library/a/b', false],
  ['**', 'a', true],
  ['**', 'a/b/c', true],
  ['team/**', 'team/a', true],
  ['team/**', 'team/a/b', true],
  ['team/**', 'team', false],
  ['team/**', 'teams/a', false],
  ['**/cache', 'cache', true],
  ['**/cache', 'a/b/cache', true],
  ['a/**/z', 'a/z', true],
  ['a/**/z', 'a/b/c/z', true],
  ['a/**/z', 'a/b/c', false],
  ['a/**/b/**/c', 'a/b/x/b/c', true],
  ['web-*-prod', 'web-1-2-prod', true],
  ['web-*-prod', 'web-prod', false],
  ['web-**', 'web-a/b', false],
  ['a.c', 'abc', false],
  ['docker.io/library/alpine:3.*', 'docker.io/library/alpine:3.20', true],
  ['docker.io/library/alpine:3.*', 'docker.io/library/alpine:edge', false],
]

test('a star stays within a component, two cross them', async (t) => {
  for (const [glob, name, matches] of rows) t.equal(matchesAny([glob], name), matches, `${glob} over ${name}`)
})

test('one glob that matches is enough, none match nothing', async (t) => {
  t.equal(matchesAny(['a', 'b'], 'b'), true)
  t.equal(matchesAny([], 'b'), false)
})

test('a glob that would make an expression backtrack for ever is answered at once', async (t) => {
  t.equal(matchesAny(['a*'.repeat(60) + 'b'], 'a'.repeat(255)), false)
  t.equal(matchesAny(['**/a/'.repeat(40) + 'b'], 'a/'.repeat(100) + 'c'), false)
})
