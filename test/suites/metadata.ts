/**
 * What every MetadataStore must do. `make` gives an empty one and closes it at the end of the test.
 */
import type { Test } from 'tap'
import { digestOf, type Digest } from '../../src/oci/digest.ts'
import { MEDIA_TYPES, type Descriptor } from '../../src/oci/descriptor.ts'
import { parseRepositoryName, parseTag } from '../../src/oci/reference.ts'
import {
  LOCAL,
  type MetadataStore,
  type RepositoryKey,
  type TagRecord,
} from '../../src/storage/metadata/metadata.ts'
import type { ManifestContent } from '../../src/oci/manifest.ts'
import { referrersQuestion, TAG_LIST, tagQuestion } from '../../src/storage/metadata/upstream-answer-index.ts'

const alpine = repository('docker.io', 'library/alpine')
const sameNameElsewhere = repository('quay.io', 'library/alpine')
const latest = parseTag('latest')

export function repository(registry: string, name: string): RepositoryKey {
  return { registry, name: parseRepositoryName(name) }
}

export function named(text: string): Digest {
  return digestOf(Buffer.from(text))
}

export function tagRecord(digest: Digest, facts: Partial<TagRecord> = {}): TagRecord {
  return {
    tag: latest,
    digest,
    size: 7,
    mediaType: MEDIA_TYPES.ociManifest,
    checkedAt: 1000,
    deletedAt: undefined,
    ...facts,
  }
}

function layer(text: string, facts: Partial<Descriptor> = {}): Descriptor {
  return {
    mediaType: 'application/vnd.oci.image.layer.v1.tar+gzip',
    digest: named(text),
    size: text.length,
    ...facts,
  }
}

function image(layers: readonly Descriptor[], facts: Partial<ManifestContent> = {}): ManifestContent {
  return {
    mediaType: MEDIA_TYPES.ociManifest,
    kind: 'image',
    manifests: [],
    config: layer('config', { mediaType: 'application/vnd.oci.image.config.v1+json' }),
    layers,
    subject: undefined,
    artifactType: undefined,
    annotations: undefined,
    ...facts,
  }
}

export function metadataSuite(t: Test, make: (t: Test) => Promise<MetadataStore>): void {
  void t.test('an empty store knows nothing', async (t) => {
    const store = await make(t)
    t.equal(await store.repositories.get(alpine), undefined)
    t.same(await store.repositories.list('docker.io', { limit: 10 }), [])
    t.equal(await store.tags.get(alpine, latest), undefined)
    t.same(await store.tags.list(alpine, { limit: 10 }), [])
    t.equal(await store.manifests.get(alpine, named('m')), undefined)
    t.equal(await store.manifests.descriptor(alpine, named('a')), undefined)
    t.same(await store.manifests.references(named('m')), [])
    t.same(await store.manifests.referrers(alpine, named('m')), [])
    t.equal(await store.blobs.linked(alpine, named('a')), false)
    t.equal(await store.blobs.deliveredBy('docker.io', named('a')), false)
  })

  void t.test('a repository is of one registry', async (t) => {
    const store = await make(t)
    await store.transaction((tx) => tx.putRepository(alpine, 5))
    t.same(await store.repositories.get(alpine), { servedAt: 5, deletedAt: undefined })
    t.equal(await store.repositories.get(sameNameElsewhere), undefined)
    await store.transaction((tx) => tx.putRepository(alpine, 9))
    t.equal((await store.repositories.get(alpine))?.servedAt, 9)
  })

  void t.test('repositories are listed by name, page by page', async (t) => {
    const store = await make(t)
    await store.transaction((tx) => {
      for (const name of ['b', 'a/c', 'a', 'c']) tx.putRepository(repository(LOCAL, name), 1)
      tx.putRepository(alpine, 1)
    })
    t.same(await store.repositories.list(LOCAL, { limit: 2 }), ['a', 'a/c'])
    t.same(await store.repositories.list(LOCAL, { limit: 9, last: 'a/c' }), ['b', 'c'])
    t.same(await store.repositories.list(LOCAL, { limit: 9, last: 'aa' }), ['b', 'c'])
  })

  void t.test('a tag moves', async (t) => {
    const store = await make(t)
    await store.transaction((tx) => tx.putTag(alpine, tagRecord(named('one'))))
    t.same(await store.tags.get(alpine, latest), tagRecord(named('one')))
    t.equal(await store.tags.get(sameNameElsewhere, latest), undefined)
    const moved = tagRecord(named('two'), { checkedAt: 2000, size: 8, mediaType: MEDIA_TYPES.ociIndex })
    await store.transaction((tx) => tx.putTag(alpine, moved))
    t.same(await store.tags.get(alpine, latest), moved)
  })

  void t.test('only the digest that was asked about is confirmed', async (t) => {
    const store = await make(t)
    await store.transaction((tx) => tx.putTag(alpine, tagRecord(named('one'))))
    await store.transaction((tx) => tx.confirmTag(alpine, latest, named('other'), 3000))
    t.equal((await store.tags.get(alpine, latest))?.checkedAt, 1000)
    await store.transaction((tx) => tx.confirmTag(alpine, latest, named('one'), 3000))
    t.equal((await store.tags.get(alpine, latest))?.checkedAt, 3000)
    await store.transaction((tx) => tx.confirmTag(sameNameElsewhere, latest, named('one'), 4000))
    t.equal((await store.tags.get(alpine, latest))?.checkedAt, 3000)
  })

  void t.test('a buried tag keeps its digest, is not listed, and comes back', async (t) => {
    const store = await make(t)
    await store.transaction((tx) => {
      tx.putTag(alpine, tagRecord(named('one')))
      tx.putTag(alpine, tagRecord(named('two'), { tag: parseTag('3.20') }))
    })
    await store.transaction((tx) => tx.buryTag(alpine, latest, 5000))
    t.same(await store.tags.get(alpine, latest), tagRecord(named('one'), { deletedAt: 5000 }))
    t.same(await store.tags.list(alpine, { limit: 10 }), ['3.20'])
    await store.transaction((tx) => tx.putTag(alpine, tagRecord(named('one'))))
    t.same(await store.tags.list(alpine, { limit: 10 }), ['3.20', 'latest'])
    await store.transaction((tx) => tx.buryTag(alpine, parseTag('unknown'), 5000))
    t.equal(await store.tags.get(alpine, parseTag('unknown')), undefined)
  })

  void t.test('tags are listed in byte order, page by page', async (t) => {
    const store = await make(t)
    await store.transaction((tx) => {
      for (const tag of ['b', 'B', '10', '9', 'a_1', 'a.1']) {
        tx.putTag(alpine, tagRecord(named('one'), { tag: parseTag(tag) }))
      }
    })
    t.same(await store.tags.list(alpine, { limit: 4 }), ['10', '9', 'B', 'a.1'])
    t.same(await store.tags.list(alpine, { limit: 4, last: 'a.1' }), ['a_1', 'b'])
    t.same(await store.tags.list(alpine, { limit: 4, last: 'a' }), ['a.1', 'a_1', 'b'])
  })

  void t.test('a manifest is of the repositories it was put in', async (t) => {
    const store = await make(t)
    await store.transaction((tx) => tx.putManifest(alpine, named('m'), 42, image([layer('a')]), 1))
    t.same(await store.manifests.get(alpine, named('m')), {
      digest: named('m'),
      size: 42,
      mediaType: MEDIA_TYPES.ociManifest,
      subject: undefined,
      storedAt: 1,
      releasedAt: undefined,
    })
    t.equal(await store.manifests.get(sameNameElsewhere, named('m')), undefined)
    t.equal(await store.manifests.descriptor(sameNameElsewhere, named('a')), undefined)
  })

  void t.test('a manifest names its children in its order, duplicates included', async (t) => {
    const store = await make(t)
    const foreign = layer('far', { urls: ['https://elsewhere.example/far'] })
    const annotated = layer('b', { annotations: { 'org.example': 'yes "quoted"' }, artifactType: 'text/x' })
    const content = image([layer('a'), annotated, layer('a'), foreign])
    await store.transaction((tx) => {
      tx.putManifest(alpine, named('m'), 42, content, 1)
      tx.putManifest(sameNameElsewhere, named('m'), 42, content, 1)
    })
    t.same(await store.manifests.references(named('m')), [
      { ...content.config, role: 'config' },
      { ...layer('a'), role: 'layer' },
      { ...annotated, role: 'layer' },
      { ...layer('a'), role: 'layer' },
      { ...foreign, role: 'layer' },
    ])
    t.same(await store.manifests.descriptor(alpine, named('far')), { ...foreign, role: 'layer' })
    t.same(await store.manifests.descriptor(alpine, named('b')), { ...annotated, role: 'layer' })
  })

  void t.test('an index of thousands keeps all its children', async (t) => {
    const store = await make(t)
    const manifests = Array.from({ length: 3000 }, (_, i) => layer(`child ${i}`))
    const index = image([], { kind: 'index', config: undefined, manifests })
    await store.transaction((tx) => tx.putManifest(alpine, named('index'), 42, index, 1))
    const children = await store.manifests.references(named('index'))
    t.equal(children.length, 3000)
    t.equal(children[2999]?.digest, named('child 2999'))
    t.equal(children[2999]?.role, 'manifest')
    const child = await store.manifests.descriptor(alpine, named('child 1234'))
    t.match(child, { digest: named('child 1234'), role: 'manifest' })
  })

  void t.test('referrers are the manifests of that repository with that subject', async (t) => {
    const store = await make(t)
    const subject = layer('subject')
    await store.transaction((tx) => {
      const signature = image([], { subject, artifactType: 'application/sig', annotations: { by: 'me' } })
      tx.putManifest(alpine, named('signature'), 11, signature, 1)
      tx.putManifest(alpine, named('bill'), 12, image([], { subject }), 2)
      tx.putManifest(alpine, named('unrelated'), 13, image([]), 3)
      tx.putManifest(sameNameElsewhere, named('theirs'), 14, image([], { subject }), 4)
    })
    t.same(await store.manifests.referrers(alpine, subject.digest), [
      {
        mediaType: MEDIA_TYPES.ociManifest,
        digest: named('signature'),
        size: 11,
        artifactType: 'application/sig',
        annotations: { by: 'me' },
      },
      { mediaType: MEDIA_TYPES.ociManifest, digest: named('bill'), size: 12 },
    ])
  })

  void t.test('a subject is not named: it opens nothing', async (t) => {
    const store = await make(t)
    await store.transaction((tx) =>
      tx.putManifest(alpine, named('m'), 1, image([], { subject: layer('subject') }), 1),
    )
    t.equal(await store.manifests.descriptor(alpine, named('subject')), undefined)
  })

  void t.test('a link is of one repository, a delivery of one registry', async (t) => {
    const store = await make(t)
    await store.transaction((tx) => {
      tx.linkBlob(alpine, named('a'), 1, 1)
      tx.recordDelivery('quay.io', named('a'), 1, 2)
    })
    t.equal(await store.blobs.linked(alpine, named('a')), true)
    t.equal(await store.blobs.linked(sameNameElsewhere, named('a')), false)
    t.equal(await store.blobs.deliveredBy('quay.io', named('a')), true)
    t.equal(await store.blobs.deliveredBy('docker.io', named('a')), false)
    // Idempotent.
    await store.transaction((tx) => {
      tx.linkBlob(alpine, named('a'), 1, 3)
      tx.recordDelivery('quay.io', named('a'), 1, 4)
    })
    t.equal(await store.blobs.size(named('a')), 1)
    t.equal(await store.blobs.size(named('b')), undefined)
  })

  void t.test('a link of what is only perhaps here brings no blob', async (t) => {
    const store = await make(t)
    const link = (): Promise<void> =>
      store.transaction((tx) => {
        tx.linkKnownBlob(alpine, named('a'), 1)
      })
    await link()
    t.equal(await store.blobs.size(named('a')), undefined)
    t.equal(await store.blobs.linked(alpine, named('a')), false)
    await store.transaction((tx) => tx.recordDelivery('docker.io', named('a'), 7, 1))
    await link()
    await link()
    t.equal(await store.blobs.size(named('a')), 7)
    t.equal(await store.blobs.linked(alpine, named('a')), true)
  })

  void t.test('a forgotten blob is linked nowhere and delivered by nobody; its manifests stay', async (t) => {
    const store = await make(t)
    await store.transaction((tx) => {
      tx.putManifest(alpine, named('m'), 42, image([layer('a')]), 1)
      for (const text of ['a', 'b']) {
        tx.linkBlob(alpine, named(text), 1, 1)
        tx.recordDelivery('docker.io', named(text), 1, 1)
      }
    })
    await store.transaction((tx) => tx.forgetBlob(named('a')))
    t.equal(await store.blobs.linked(alpine, named('a')), false)
    t.equal(await store.blobs.deliveredBy('docker.io', named('a')), false)
    t.equal(await store.blobs.size(named('a')), undefined)
    t.equal(await store.blobs.linked(alpine, named('b')), true)
    t.equal(await store.blobs.deliveredBy('docker.io', named('b')), true)
    t.ok(await store.manifests.get(alpine, named('m')))
    t.same(await store.manifests.descriptor(alpine, named('a')), { ...layer('a'), role: 'layer' })
  })

  void t.test('events wait for their end-point in the order in which they were committed', async (t) => {
    const store = await make(t)
    const told: Promise<readonly string[]>[] = []
    const listening = store.events.onQueued(() => void told.push(store.events.endpoints()))
    const event = (endpoint: string, body: string) => ({ endpoint, body })
    await store.transaction((tx) =>
      tx.queueEvents([event('one', 'a'), event('two', 'a'), event('one', 'b')], 5),
    )
    t.same(await Promise.all(told), [['one', 'two']], 'whoever listens can read them')
    await store.transaction((tx) => tx.queueEvents([], 6))
    await store.transaction((tx) => tx.putRepository(alpine, 6))
    t.equal(told.length, 1, 'and hears of nothing else')
    listening[Symbol.dispose]()
    await Promise.all(
      Array.from({ length: 120 }, (_, at) =>
        store.transaction((tx) => tx.queueEvents([event('one', `${at}`)], 7)),
      ),
    )
    t.equal(told.length, 1)
    t.equal(await store.events.count('one'), 122)

    const [first, second] = await store.events.next('one', 2)
    t.match([first, second], [{ body: 'a', queuedAt: 5 }, { body: 'b' }])
    const rest = await store.events.next('one', 1000, second?.id)
    t.same(
      rest.map(({ body }) => body),
      Array.from({ length: 120 }, (_, at) => `${at}`),
    )
    await store.transaction((tx) => tx.dropEvents('one', second?.id ?? 0))
    t.equal(await store.events.count('one'), 120)
    t.equal(await store.events.count('two'), 1, 'another end-point keeps its own')
    await store.transaction((tx) => tx.dropEvents('one', Number.MAX_SAFE_INTEGER))
    await store.transaction((tx) => tx.queueEvents([event('one', 'c')], 8))
    const [last] = await store.events.next('one', 1)
    t.ok((last?.id ?? 0) > (rest.at(-1)?.id ?? Infinity), 'a number is never given twice')
  })

  void t.test('a transaction whose filling throws writes nothing', async (t) => {
    const store = await make(t)
    const write = store.transaction((tx) => {
      tx.putRepository(alpine, 1)
      throw new Error('changed my mind')
    })
    await t.rejects(write, { message: 'changed my mind' })
    t.equal(await store.repositories.get(alpine), undefined)
  })

  void t.test('many writers at once all get what they wrote', async (t) => {
    const store = await make(t)
    await Promise.all(
      Array.from({ length: 300 }, (_, i) =>
        store.transaction((tx) => tx.putTag(alpine, tagRecord(named('x'), { tag: parseTag(`t${i}`) }))),
      ),
    )
    t.equal((await store.tags.list(alpine, { limit: 1000 })).length, 300)
  })

  void t.test('after close nothing is written any more', async (t) => {
    const store = await make(t)
    await store.close()
    await t.rejects(
      store.transaction((tx) => tx.putRepository(alpine, 1)),
      { code: 'CLOSED' },
    )
  })

  void t.test('an answer of an upstream is kept with its time, and goes with what it is about', async (t) => {
    const store = await make(t)
    const answers = store.upstreamAnswers
    const subject = named('manifest')
    const about = referrersQuestion(subject)
    const absent = tagQuestion(latest)
    t.equal(await answers.get(alpine, TAG_LIST), undefined)
    t.equal(await answers.weight(), 0)
    await store.transaction((tx) => {
      tx.putManifest(alpine, subject, 8, image([]), 1000)
      tx.putManifest(alpine, named('other'), 8, image([]), 1000)
      tx.putUpstreamAnswer(alpine, TAG_LIST, { body: Buffer.from('["1"]'), etag: '"a"' }, 1000)
      tx.putUpstreamAnswer(alpine, about, { body: Buffer.from('{}'), subject }, 1000)
      tx.putUpstreamAnswer(alpine, absent, {}, 1000)
    })
    t.same(await answers.get(alpine, TAG_LIST), { storedAt: 1000, checkedAt: 1000, bodySize: 5, etag: '"a"' })
    t.equal((await answers.body(alpine, TAG_LIST))?.toString(), '["1"]')
    t.same(await answers.get(alpine, absent), {
      storedAt: 1000,
      checkedAt: 1000,
      bodySize: undefined,
      etag: undefined,
    })
    t.equal(await answers.body(alpine, absent), undefined)
    t.equal(await answers.get(sameNameElsewhere, TAG_LIST), undefined)
    t.ok((await answers.weight()) > 7)
    t.equal((await store.eviction.stored()).mirrored.get('docker.io'), await answers.weight())

    await store.transaction((tx) => {
      tx.confirmUpstreamAnswer(alpine, TAG_LIST, 1000, 2000)
      tx.confirmUpstreamAnswer(alpine, about, 999, 2000)
    })
    t.equal((await answers.get(alpine, TAG_LIST))?.checkedAt, 2000)
    t.equal((await answers.get(alpine, about))?.checkedAt, 1000, 'another body was confirmed')

    await store.transaction((tx) => tx.putTag(alpine, tagRecord(subject)))
    t.equal(await answers.get(alpine, absent), undefined, 'there is one now')
    await store.transaction((tx) => tx.deleteManifest(alpine, subject, 3000))
    t.equal(await answers.get(alpine, about), undefined)
    t.not(await answers.get(alpine, TAG_LIST), undefined)
    await store.transaction((tx) => tx.deleteManifest(alpine, named('other'), 3000))
    t.equal(await answers.get(alpine, TAG_LIST), undefined, 'nothing of the repository is here')

    await store.transaction((tx) => tx.putUpstreamAnswer(alpine, TAG_LIST, {}, 1000))
    await store.transaction((tx) => tx.forgetUpstreamAnswer(alpine, TAG_LIST))
    t.equal(await answers.get(alpine, TAG_LIST), undefined)
    await store.transaction((tx) => tx.putUpstreamAnswer(alpine, TAG_LIST, {}, 1000))
    await store.transaction((tx) => tx.buryRepository(alpine, 2000))
    t.equal(await answers.get(alpine, TAG_LIST), undefined)
  })

  void t.test(
    'answers of upstreams are trimmed to a weight, those that were confirmed longest ago first',
    async (t) => {
      const store = await make(t)
      const tags = ['a', 'b', 'c', 'd'].map((tag) => parseTag(tag))
      await store.transaction((tx) => {
        for (const [at, tag] of tags.entries()) {
          tx.putUpstreamAnswer(alpine, tagQuestion(tag), { body: Buffer.alloc(1000) }, at)
        }
        tx.confirmUpstreamAnswer(alpine, tagQuestion(parseTag('a')), 0, 10)
      })
      const half = (await store.upstreamAnswers.weight()) / 2
      await store.transaction((tx) => tx.trimUpstreamAnswers(half))
      const left = []
      for (const tag of tags) {
        if ((await store.upstreamAnswers.get(alpine, tagQuestion(tag))) !== undefined) left.push(tag)
      }
      t.same(left, ['a', 'd'])
      t.equal(await store.upstreamAnswers.weight(), half)
    },
  )

  void t.test('the newest of finished uploads are known, and those of their time', async (t) => {
    const store = await make(t)
    const { name } = alpine
    const finished = (nth: number) => ({ name, digest: named(`blob ${nth}`), finishedAt: nth })
    t.equal(await store.finishedUploads.get('1'), undefined)
    await store.transaction((tx) => {
      for (let nth = 1; nth <= 20_010; nth++) tx.putFinishedUpload(String(nth), finished(nth), 5)
      tx.putFinishedUpload('20010', finished(1), 5)
    })
    for (const nth of [1, 4, 10]) t.equal(await store.finishedUploads.get(String(nth)), undefined, `${nth}`)
    for (const nth of [11, 20_010]) t.same(await store.finishedUploads.get(String(nth)), finished(nth))
    await store.transaction((tx) => tx.putFinishedUpload('next', finished(20_011), 20_010))
    t.equal(await store.finishedUploads.get('20009'), undefined)
    t.same(await store.finishedUploads.get('20010'), finished(20_010))
  })

  void t.test('tags whose manifest is here', async (t) => {
    const store = await make(t)
    t.same(await store.tags.held(alpine, 10), [])
    await store.transaction((tx) => {
      tx.putManifest(alpine, named('a'), 8, image([]), 1000)
      tx.putTag(alpine, tagRecord(named('a'), { tag: parseTag('a'), checkedAt: 5 }))
      tx.putTag(alpine, tagRecord(named('a'), { tag: parseTag('b'), checkedAt: 7 }))
      tx.putTag(alpine, tagRecord(named('elsewhere'), { tag: parseTag('c'), checkedAt: 8 }))
      tx.putTag(alpine, tagRecord(named('a'), { tag: parseTag('gone'), checkedAt: 9, deletedAt: 10 }))
    })
    t.same(await store.tags.held(alpine, 10), [
      { tag: 'a', checkedAt: 5 },
      { tag: 'b', checkedAt: 7 },
    ])
    t.equal((await store.tags.held(alpine, 1)).length, 1)
    t.same(await store.tags.held(sameNameElsewhere, 10), [])
  })

  void t.test('what strangers can make us ask is trimmed before what is about something here', async (t) => {
    const store = await make(t)
    const subject = named('manifest')
    await store.transaction((tx) => {
      tx.putManifest(alpine, subject, 8, image([]), 1000)
      tx.putUpstreamAnswer(alpine, TAG_LIST, { body: Buffer.alloc(1000) }, 1)
      tx.putUpstreamAnswer(alpine, referrersQuestion(subject), { body: Buffer.alloc(1000), subject }, 1)
      const unknown = named('unknown')
      tx.putUpstreamAnswer(
        alpine,
        referrersQuestion(unknown),
        { body: Buffer.alloc(1000), subject: unknown },
        9,
      )
      tx.putUpstreamAnswer(alpine, tagQuestion(latest), {}, 9)
      tx.putUpstreamAnswer(sameNameElsewhere, TAG_LIST, { body: Buffer.alloc(1000) }, 9)
    })
    await store.transaction((tx) => tx.trimUpstreamAnswers(3_100))
    const { upstreamAnswers } = store
    t.not(await upstreamAnswers.get(alpine, TAG_LIST), undefined)
    t.not(await upstreamAnswers.get(alpine, referrersQuestion(subject)), undefined)
    t.equal(await upstreamAnswers.get(alpine, tagQuestion(latest)), undefined)
    t.equal(await upstreamAnswers.get(sameNameElsewhere, TAG_LIST), undefined)
  })
}
