/** Which images a glob of `cache.pin` keeps. */
import { test } from 'tap'
import { pins } from '../../src/cache/pinned.ts'

const DIGEST = `sha256:${'0'.repeat(64)}`

test('a pin is over names and tags, or over names and digests', (t) => {
  const kept: [glob: string, image: string, is: boolean][] = [
    ['docker.io/library/alpine:3.*', 'docker.io/library/alpine:3.20', true],
    ['docker.io/library/alpine:3.*', 'docker.io/library/alpine:4', false],
    ['docker.io/library/alpine:3.*', `docker.io/library/alpine@${DIGEST}`, false],
    ['docker.io/library/alpine', 'docker.io/library/alpine:any', true],
    ['docker.io/library/alpine', `docker.io/library/alpine@${DIGEST}`, true],
    ['docker.io/library/alpine', 'docker.io/library/alpine-extra:1', false],
    ['quay.io/**', 'quay.io/team/deep/app:1', true],
    ['quay.io/**:stable', 'quay.io/team/deep/app:stable', true],
    ['quay.io/**:stable', 'quay.io/team/deep/app:1', false],
    ['docker.io/library/alpine@sha256:0*', `docker.io/library/alpine@${DIGEST}`, true],
    ['docker.io/library/alpine@sha256:1*', `docker.io/library/alpine@${DIGEST}`, false],
    ['host.example:5000/app:1', 'host.example:5000/app:1', true],
    ['host.example:5000/app', 'host.example:5000/app:2', true],
    ['*/library/alpine:latest', 'docker.io/library/alpine:latest', true],
  ]
  for (const [glob, image, is] of kept) t.equal(pins(glob, image), is, `${glob} and ${image}`)
  t.end()
})
