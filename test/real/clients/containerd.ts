/**
 * containerd 2.4 with its ctr, by the transfer service and by the client's own code, which are two programs.
 */
import assert from 'node:assert/strict'
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Test } from 'tap'
import { goProgram, missingGoPrograms } from '../../support/go-programs.ts'
import { missingAsRoot, Program, run, shortDir } from '../../support/programs.ts'
import { command, type Place, type RealClient, type Verb } from './client.ts'

export const containerd: RealClient = {
  name: 'containerd 2.4',
  missing: missingGoPrograms('containerd', 'ctr') || missingAsRoot(),
  async open(t) {
    const daemon = await Daemon.start(t)
    const pull = (what: string, flags: string[], hosts: (place: Place) => Hosts): Verb => ({
      kind: 'pull',
      what,
      run: (place) => daemon.pull(place, flags, hosts(place)),
    })
    return [
      pull('pull, with ?ns=', [], byNamespace),
      pull('pull --local, with ?ns=', ['--local', '--snapshotter', 'native'], byNamespace),
      pull(
        'pull --local --all-platforms',
        ['--local', '--snapshotter', 'native', '--all-platforms'],
        byNamespace,
      ),
      pull('pull, with override_path', [], byPath),
      pull('pull, by prefix', [], byPrefix),
      {
        kind: 'inspect',
        what: 'content fetch',
        run: (place) => daemon.fetch(place, byNamespace(place)),
      },
    ]
  },
}

interface Hosts {
  /** Name of a registry, or `_default` -> its hosts.toml. */
  readonly files: Readonly<Record<string, string>>
  readonly reference: string
}

/** As docs/clients.md has it; nobody is at the registry itself. */
function byNamespace({ host, registry, repository }: Place): Hosts {
  const file = `server = "http://127.0.0.1:1"
[host."http://${host}"]
  capabilities = ["pull", "resolve"]
`
  return { files: { _default: file }, reference: `${registry}/${repository}:1` }
}

function byPath({ host, registry, repository }: Place): Hosts {
  const file = `server = "http://127.0.0.1:1"
[host."http://${host}/v2/${registry}"]
  capabilities = ["pull", "resolve"]
  override_path = true
`
  return { files: { [registry]: file }, reference: `${registry}/${repository}:1` }
}

function byPrefix({ host, name }: Place): Hosts {
  return { files: { [host]: `server = "http://${host}"\n` }, reference: `${name}:1` }
}

class Daemon {
  readonly #socket: string
  #namespaces = 0

  private constructor(socket: string) {
    this.#socket = socket
  }

  static async start(t: Test): Promise<Daemon> {
    const dir = shortDir(t)
    const config = join(dir, 'config.toml')
    const socket = join(dir, 'c.sock')
    writeFileSync(
      config,
      `version = 3
root = "${dir}/root"
state = "${dir}/state"
disabled_plugins = [
  "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime",
  "io.containerd.nri.v1.nri",
]
[grpc]
address = "${socket}"
[ttrpc]
address = "${dir}/t.sock"
# What one namespace has pulled, another must fetch again.
[plugins."io.containerd.metadata.v1.bolt"]
content_sharing_policy = "isolated"
[[plugins."io.containerd.transfer.v1.local".unpack_config]]
platform = "linux/amd64"
snapshotter = "native"
`,
    )
    const program = new Program(t, goProgram('containerd'), ['-c', config])
    await program.ready(async () => (await run(goProgram('ctr'), ['-a', socket, 'version'])).code === 0)
    return new Daemon(socket)
  }

  /** Into a namespace where nothing is. */
  async pull(place: Place, flags: readonly string[], hosts: Hosts): Promise<void> {
    const ctr = this.#ctr(place)
    await ctr('images', 'pull', ...hostsDir(place, hosts), ...flags, hosts.reference)
    const listed = await ctr('images', 'ls')
    assert.ok(listed.includes(place.goods.index.digest), listed)
  }

  async fetch(place: Place, hosts: Hosts): Promise<void> {
    const ctr = this.#ctr(place)
    await ctr('content', 'fetch', ...hostsDir(place, hosts), '--platform', 'linux/amd64', hosts.reference)
    assert.equal(await ctr('content', 'get', place.goods.amd64.digest), place.goods.amd64.bytes.toString())
  }

  #ctr(place: Place): (...args: string[]) => Promise<string> {
    const namespace = `n${String((this.#namespaces += 1))}`
    return (...args) => command(goProgram('ctr'), ['-a', this.#socket, '-n', namespace, ...args], place)
  }
}

function hostsDir({ dir }: Place, { files }: Hosts): string[] {
  const folder = join(dir, 'certs.d')
  for (const [name, text] of Object.entries(files)) {
    mkdirSync(join(folder, name), { recursive: true })
    writeFileSync(join(folder, name, 'hosts.toml'), text)
  }
  return ['--hosts-dir', folder]
}
