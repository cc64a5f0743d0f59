/** Which repository a name means: the five rules, in their order. */
import { test } from 'tap'
import { createApp } from '../../../src/app/app.ts'
import { loadConfig } from '../../../src/config/schema.ts'
import { createLog } from '../../../src/telemetry/log.ts'
import { eventually, pull, simulate, startMirror } from '../../support/app.ts'
import { image } from '../../support/images.ts'
import { seedLocal } from '../../support/local.ts'
import { codeOf, startTwoUpstreams } from '../../support/two-upstreams.ts'

const small = (seed: string) => image({ layers: [100], seed })

test('rule 1: ns is the key or an alias of an upstream', async (t) => {
  const { hub, quay, get } = await startTwoUpstreams(t, { quay: { aliases: ['quay.example'] } })
  const ours = small('quay')
  quay.addImage('team/app', '1', ours)
  quay.addImage('app', '1', ours)
  for (const [path, ns] of [
    ['team/app/manifests/1', 'quay.io'],
    ['team/app/manifests/1', 'quay.example'],
    ['quay.io/team/app/manifests/1', 'quay.io'],
    ['quay.io/team/app/manifests/1', 'quay.example'],
    ['quay.example/team/app/manifests/1', 'quay.example'],
    ['app/manifests/1', 'quay.io'],
    ['quay.io/app/manifests/1', 'quay.io'],
  ] as const) {
    const pulled = await get(`${path}?ns=${ns}`)
    t.equal(pulled.status, 200, `${path} ${ns}`)
    t.ok(pulled.body.equals(ours.manifest.bytes))
    t.equal(pulled.headers['oci-namespace'], ns, 'what was asked for is echoed')
  }
  const blob = await get(`team/app/blobs/${ours.layers[0]!.digest}?ns=quay.io`)
  t.equal(blob.headers['oci-namespace'], 'quay.io')
  t.ok(blob.body.equals(ours.layers[0]!.bytes))
  t.equal((await get('team/app/tags/list?ns=quay.io')).headers['oci-namespace'], 'quay.io')
  const names = new Set(quay.log.entries.map(({ repo }) => repo))
  t.same([...names].sort(), ['app', 'team/app'])
  t.equal(hub.log.count(), 0)
})

test('rule 1: only a leading component that repeats that upstream is dropped, and once', async (t) => {
  const { quay, get } = await startTwoUpstreams(t)
  for (const path of ['docker.io/library/app', 'quay.io/quay.io/app', 'x/quay.io/app']) {
    t.equal((await get(`${path}/manifests/1?ns=quay.io`)).status, 404)
  }
  const names = [...new Set(quay.log.entries.map(({ repo }) => repo))]
  t.same(names, ['docker.io/library/app', 'quay.io/app', 'x/quay.io/app'])
})

test('rule 1: an unknown ns is an unknown name, whatever else there is, and is never dialled', async (t) => {
  const stranger = await simulate(t)
  stranger.addImage('library/app', '1', small('stranger'))
  const { hub, get, head, asked } = await startTwoUpstreams(t, {
    local: [{ name: 'app', tags: { '1': small('local') } }],
    config: {},
  })
  hub.addImage('library/app', '1', small('hub'))
  const { host } = new URL(stranger.url)
  for (const ns of [
    'evil.example',
    host,
    stranger.url,
    '',
    'local',
    'docker.io.',
    'Docker.io',
    'docker.io/library',
  ]) {
    const query = `ns=${encodeURIComponent(ns)}`
    for (const name of ['app', 'library/app', 'docker.io/library/app']) {
      const answer = await get(`${name}/manifests/1?${query}`)
      t.equal(answer.status, 404, `${name} ${ns}`)
      t.equal(codeOf(answer), 'NAME_UNKNOWN')
    }
    t.equal((await get(`app/tags/list?${query}`)).status, 404)
    t.equal((await get(`app/blobs/${small('hub').layers[0]!.digest}?${query}`)).status, 404)
    t.equal((await head(`app/manifests/1?${query}`)).status, 404)
  }
  t.equal(stranger.log.count(), 0)
  t.equal(asked(), 0)
})

test('rule 1: ns never reaches local repositories', async (t) => {
  const local = small('local')
  const { hub, get } = await startTwoUpstreams(t, {
    local: [
      { name: 'team/app', tags: { '1': local } },
      { name: 'tool', tags: { '1': local } },
    ],
    config: { local: ['team/**'] },
  })
  hub.addImage('team/app', '1', small('hub team'))
  const byNs = await get('team/app/manifests/1?ns=docker.io')
  t.ok(byNs.body.equals(small('hub team').manifest.bytes), 'not even where a glob of local matches')
  t.equal((await get('tool/manifests/1?ns=docker.io')).status, 404)
  t.equal((await get(`tool/manifests/${local.manifest.digest}?ns=docker.io`)).status, 404)
  t.equal((await get(`tool/blobs/${local.layers[0]!.digest}?ns=docker.io`)).status, 404)
  t.same([...new Set(hub.log.entries.map(({ repo }) => repo))], ['team/app', 'library/tool'])
})

test('rule 2: a name under a glob of local is ours, and no upstream ever hears of it', async (t) => {
  const local = small('local')
  const { hub, quay, get, head, asked } = await startTwoUpstreams(t, {
    local: [{ name: 'team/app', tags: { '1': local } }],
    config: { local: ['team/**', 'quay.io/ours/*', 'solo'] },
  })
  for (const name of ['team/app', 'team/other', 'solo', 'library/solo']) hub.addImage(name, '2', small('hub'))
  quay.addImage('ours/app', '2', small('quay'))

  t.ok((await get('team/app/manifests/1')).body.equals(local.manifest.bytes))
  t.equal((await get('team/app/manifests/1')).cache, 'local')
  for (const name of ['team/app', 'team/other', 'team/a/b/c', 'solo', 'quay.io/ours/app']) {
    const manifest = await get(`${name}/manifests/2`)
    t.equal(manifest.status, 404, name)
    t.equal((await head(`${name}/manifests/2`)).status, 404)
    t.equal((await get(`${name}/blobs/${small('hub').layers[0]!.digest}`)).status, 404)
    t.equal((await head(`${name}/blobs/${small('hub').layers[0]!.digest}`)).status, 404)
    if (name !== 'team/app') t.equal((await get(`${name}/tags/list`)).status, 404)
  }
  t.same(JSON.parse((await get('team/app/tags/list')).body.toString()), { name: 'team/app', tags: ['1'] })
  t.equal(asked(), 0)
})

test('rule 3: the first component is the key or an alias of an upstream', async (t) => {
  const { hub, quay, get, asked } = await startTwoUpstreams(t, { quay: { aliases: ['mirror'] } })
  hub.addImage('library/app', '1', small('hub'))
  hub.addImage('team/app', '1', small('hub team'))
  quay.addImage('team/app', '1', small('quay team'))
  quay.addImage('app', '1', small('quay'))
  for (const [name, seed] of [
    ['docker.io/library/app', 'hub'],
    ['docker.io/app', 'hub'],
    ['index.docker.io/library/app', 'hub'],
    ['index.docker.io/app', 'hub'],
    ['registry-1.docker.io/team/app', 'hub team'],
    ['quay.io/team/app', 'quay team'],
    ['mirror/team/app', 'quay team'],
    ['quay.io/app', 'quay'],
  ] as const) {
    const pulled = await get(`${name}/manifests/1`)
    t.ok(pulled.body.equals(small(seed).manifest.bytes), name)
    t.equal(pulled.headers['oci-namespace'], undefined)
  }
  for (const name of ['app', 'docker.io/team/app', 'quay.io/team/app', 'quay.io/app']) {
    await eventually('it is kept', async () => (await get(`${name}/manifests/1`)).cache === 'hit')
  }
  const before = asked()
  for (const name of ['docker.io/app', 'index.docker.io/library/app', 'quay.io/app', 'mirror/team/app']) {
    t.equal((await get(`${name}/manifests/1`)).cache, 'hit', 'one repository, whatever it is called')
  }
  t.equal(asked(), before)
})

test('rule 3 needs something behind the key: alone it is a name like any other', async (t) => {
  const { hub, quay, get } = await startTwoUpstreams(t)
  hub.addImage('library/quay.io', '1', small('odd'))
  t.ok((await get('quay.io/manifests/1')).body.equals(small('odd').manifest.bytes))
  t.equal(quay.log.count(), 0)
})

test('rule 3 goes before rule 4: what is mirrored is never filled in from local repositories', async (t) => {
  const local = small('local')
  const { hub, quay, get } = await startTwoUpstreams(t, {
    local: [{ name: 'team/app', tags: { '1': local } }],
  })
  t.equal((await get('docker.io/team/app/manifests/1')).status, 404)
  t.equal((await get(`quay.io/team/app/manifests/${local.manifest.digest}`)).status, 404)
  t.equal(hub.log.of('manifest')[0]?.repo, 'team/app')
  t.equal(quay.log.of('manifest')[0]?.repo, 'team/app')
})

test('rule 4: a local repository shadows the default upstream completely', async (t) => {
  const local = small('local')
  const { hub, get, head, asked } = await startTwoUpstreams(t, {
    local: [
      { name: 'team/app', tags: { '1': local } },
      { name: 'tool', tags: { '1': local } },
    ],
  })
  for (const name of ['team/app', 'tool', 'library/tool']) {
    hub.addImage(name, '1', small('hub'))
    hub.addImage(name, '2', small('hub'))
  }
  for (const name of ['team/app', 'tool']) {
    t.ok((await get(`${name}/manifests/1`)).body.equals(local.manifest.bytes))
    t.equal((await get(`${name}/manifests/2`)).status, 404, 'tags are never mixed')
    t.equal((await head(`${name}/manifests/2`)).status, 404)
    t.equal((await get(`${name}/manifests/${small('hub').manifest.digest}`)).status, 404)
    t.equal((await get(`${name}/blobs/${small('hub').layers[0]!.digest}`)).status, 404)
    t.same(JSON.parse((await get(`${name}/tags/list`)).body.toString()), { name, tags: ['1'] })
  }
  t.equal(asked(), 0)
  // Not the same name as `tool`.
  t.ok((await get('library/tool/manifests/1')).body.equals(small('hub').manifest.bytes))
})

test('rule 4: a local repository whose last tag was deleted goes on shadowing', async (t) => {
  const { hub, get, head, asked } = await startTwoUpstreams(t, {
    local: [{ name: 'team/app', buried: { '1': small('local') } }, { name: 'gone' }],
  })
  for (const name of ['team/app', 'library/gone', 'gone']) hub.addImage(name, '1', small('hub'))
  for (const name of ['team/app', 'gone']) {
    t.equal((await get(`${name}/manifests/1`)).status, 404)
    t.equal((await head(`${name}/manifests/1`)).status, 404)
    const listed = await get(`${name}/tags/list`)
    t.notOk(listed.body.includes('"1"'))
  }
  t.equal(asked(), 0)
})

test('rule 5: the default upstream takes the rest', async (t) => {
  const { hub, quay, get } = await startTwoUpstreams(t)
  hub.addImage('library/app', '1', small('hub'))
  hub.addImage('team/app', '1', small('hub team'))
  hub.addImage('library/team/app', '1', small('wrong'))
  t.ok((await get('app/manifests/1')).body.equals(small('hub').manifest.bytes))
  t.ok((await get('library/app/manifests/1')).body.equals(small('hub').manifest.bytes))
  t.ok((await get('team/app/manifests/1')).body.equals(small('hub team').manifest.bytes))
  t.equal(quay.log.count(), 0)
})

test('rule 5: that is docker.io where nobody says which', async (t) => {
  const { hub, quay, get } = await startTwoUpstreams(t, { hub: { default: undefined } })
  hub.addImage('library/app', '1', small('hub'))
  t.ok((await get('app/manifests/1')).body.equals(small('hub').manifest.bytes))
  t.equal(quay.log.count(), 0)
})

test('rule 5: without a default upstream the rest is unknown', async (t) => {
  const local = small('local')
  const { get, head, asked } = await startTwoUpstreams(t, {
    hub: { default: false },
    local: [{ name: 'ours', tags: { '1': local } }],
  })
  for (const name of ['app', 'library/app', 'team/app', 'unknown.example/team/app']) {
    const answer = await get(`${name}/manifests/1`)
    t.equal(answer.status, 404)
    t.equal(codeOf(answer), 'NAME_UNKNOWN')
    t.equal((await head(`${name}/manifests/1`)).status, 404)
  }
  t.equal(asked(), 0)
  t.equal((await get('ours/manifests/1')).cache, 'local')
})

test('libraryNormalisation: library/ is put before a one-component name for docker.io alone', async (t) => {
  const hub = await simulate(t)
  const other = await simulate(t)
  for (const it of [hub, other]) {
    it.addImage('app', '1', small('plain'))
    it.addImage('library/app', '1', small('official'))
  }
  const root = t.testdir()
  const mirror = await startMirror(t, hub, {
    root,
    config: {
      upstreams: {
        'docker.io': { url: hub.url },
        'other.example': { url: other.url, default: true },
      },
    },
  })
  const seedOf = async (path: string): Promise<string> => {
    const { body } = await pull(`${mirror.url}/v2/${path}`)
    return body.equals(small('official').manifest.bytes) ? 'official' : 'plain'
  }
  t.equal(await seedOf('app/manifests/1'), 'plain', 'the default is another')
  t.equal(await seedOf('other.example/app/manifests/1'), 'plain')
  t.equal(await seedOf('app/manifests/1?ns=other.example'), 'plain')
  t.equal(await seedOf('docker.io/app/manifests/1'), 'official')
  t.equal(await seedOf('app/manifests/1?ns=docker.io'), 'official')
  t.equal(await seedOf('docker.io/app/manifests/1?ns=index.docker.io'), 'official')
})

test('a key with a port is reached by ns only', async (t) => {
  const upstream = await simulate(t)
  upstream.addImage('team/app', '1', small('ported'))
  const mirror = await startMirror(t, upstream, {
    config: { upstreams: { 'registry.example:5000': { url: upstream.url } } },
  })
  const byNs = await pull(`${mirror.url}/v2/team/app/manifests/1?ns=registry.example%3A5000`)
  t.equal(byNs.status, 200)
  t.equal(byNs.headers['oci-namespace'], 'registry.example:5000')
  const byPath = await pull(`${mirror.url}/v2/registry.example:5000/team/app/manifests/1`)
  t.equal(byPath.status, 400)
  t.equal(codeOf(byPath), 'NAME_INVALID')
  t.equal((await pull(`${mirror.url}/v2/registry.example/team/app/manifests/1`)).status, 404)
  t.equal(upstream.log.count('manifest'), 1)
})

test('a start whose upstreams would hide local repositories is refused with their names', async (t) => {
  const upstream = await simulate(t)
  const root = t.testdir()
  await seedLocal(root, [
    { name: 'quay.io/team/app', tags: { '1': small('local') } },
    { name: 'mirror/tool' },
    { name: 'ours/app' },
    { name: 'mirror' },
  ])
  const appWith = (more: Record<string, unknown>) => {
    const text = JSON.stringify({ server: { port: 0 }, storage: { root }, ...more })
    const log = createLog({ level: 'silent', write: () => undefined })
    return createApp(loadConfig({ text, env: {} }).config, { log })
  }
  const hiding = { upstreams: { 'quay.io': { url: upstream.url, aliases: ['mirror'] } } }
  await t.rejects(appWith(hiding).start(), {
    message: /hide local repositories: mirror\/tool, quay\.io\/team\/app$/,
  })

  // A glob of local keeps them reachable, and so does another key.
  for (const config of [
    { ...hiding, local: ['quay.io/team/**', 'mirror/*'] },
    { upstreams: { 'docker.io': { url: upstream.url } } },
  ]) {
    const app = appWith(config)
    const { url } = await app.start()
    t.equal((await pull(`${url}/v2/quay.io/team/app/manifests/1`)).cache, 'local')
    await app.close(0)
  }
  t.equal(upstream.log.count(), 0)
})
