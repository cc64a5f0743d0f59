/** A start without any network: a namespace of its own, with nothing but its loopback interface. */
import { readFileSync } from 'node:fs'
import { t as file, test } from 'tap'
import { eventually, pull, simulate } from '../support/app.ts'
import { image } from '../support/images.ts'
import { commandLine, Entrepot } from '../support/process.ts'
import { missingAsRoot, Program, run } from '../support/programs.ts'

file.setTimeout(600_000)

/** In the namespace; a client has to be there as well. */
const CLIENT = `
  const [url] = process.argv.slice(1)
  const answer = await fetch(url)
  const body = Buffer.from(await answer.arrayBuffer())
  console.log(JSON.stringify({
    status: answer.status,
    cache: answer.headers.get('x-cache'),
    body: body.toString('base64'),
  }))
`

/** What everything in the namespace of that process has tried to send, by the kernel's own count. */
function triedToSend(pid: number): Record<string, number> {
  const tables = readFileSync(`/proc/${pid}/net/snmp`, 'utf8').trim().split('\n')
  const value = (protocol: string, name: string): number => {
    const [names, values] = tables
      .filter((line) => line.startsWith(`${protocol}:`))
      .map((it) => it.split(' '))
    return Number(values?.[names?.indexOf(name) ?? -1])
  }
  const v6 = /^Ip6OutNoRoutes\s+(\d+)$/m.exec(readFileSync(`/proc/${pid}/net/snmp6`, 'utf8'))
  return {
    connections: value('Tcp', 'ActiveOpens'),
    datagrams: value('Udp', 'OutDatagrams'),
    withoutRoute: value('Ip', 'OutNoRoutes') + Number(v6?.[1] ?? 0),
  }
}

test(
  'without a network it starts as with one, and serves what it has',
  { skip: missingAsRoot('unshare', 'nsenter', 'ip') },
  async (t) => {
    const dir = t.testdir()
    const hub = await simulate(t)
    const held = image({ layers: [2_000_000], seed: 'no network' })
    hub.addImage('library/app', '1', held)

    let begun = performance.now()
    const before = await Entrepot.start(t, {
      dir,
      config: { upstreams: { 'docker.io': { url: hub.url, default: true } } },
    })
    t.comment(`with a network: ready after ${Math.round(performance.now() - begun)} ms`)
    const paths = [
      '/v2/library/app/manifests/1',
      ...[...held.manifests, ...held.blobs].map(({ digest, mediaType }) =>
        mediaType.includes('manifest')
          ? `/v2/library/app/manifests/${digest}`
          : `/v2/library/app/blobs/${digest}`,
      ),
    ]
    for (const path of paths) {
      await eventually(path, async () => (await pull(`${before.url}${path}`)).cache === 'hit')
    }
    await before.program.stop()

    // The upstreams of the defaults: every name of theirs would have to be resolved.
    const { command, args, env } = commandLine({ dir, config: { cache: { tagTtl: 0 } } })
    begun = performance.now()
    const inside = ['-n', 'sh', '-c', 'ip link set lo up && exec "$0" "$@"', command, ...args]
    const program = new Program(t, 'unshare', inside, env)
    const { url, log } = await Entrepot.follow(program)
    t.comment(`without: ready after ${Math.round(performance.now() - begun)} ms`)
    const pid = program.pid ?? 0
    t.same(
      triedToSend(pid),
      { connections: 0, datagrams: 0, withoutRoute: 0 },
      'nothing was resolved or dialled',
    )
    t.same(
      log.filter(({ level }) => level !== 'info'),
      [],
      'and nothing is amiss',
    )

    const get = async (path: string): Promise<{ status: number; cache: string; body: string }> => {
      const client = [process.execPath, '--input-type=module', '-e', CLIENT, `${url}${path}`]
      const { stdout, stderr } = await run('nsenter', ['-t', String(pid), '-n', ...client])
      if (stdout === '') throw new Error(stderr)
      return JSON.parse(stdout) as { status: number; cache: string; body: string }
    }
    const right = new Map<string, Buffer>(
      [...held.manifests, ...held.blobs].map(({ digest, bytes }) => [digest, bytes]),
    )
    for (const path of paths) {
      const { status, body, cache } = await get(path)
      t.match({ status, cache }, { status: 200, cache: path === paths[0] ? 'stale' : 'hit' }, path)
      const bytes = right.get(path.slice(path.lastIndexOf('/') + 1)) ?? held.manifest.bytes
      t.ok(bytes.equals(Buffer.from(body, 'base64')))
    }
    t.equal((await get('/v2/library/other/manifests/1')).status, 503)
    const { datagrams, withoutRoute } = triedToSend(pid)
    t.ok(datagrams! + withoutRoute! > 0, 'what asks upstream is seen by the count')
  },
)
