/**
 * The real programs around entrepot: Debian's registry, Docker's daemon, containerd; each in a folder of its own.
 */
import { existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Test } from 'tap'
import { findCommand, freePort, Program, run, shortDir, succeed, type Finished } from '../support/programs.ts'

/** Keeps its folder and its port when it is stopped and started again. */
export class DockerRegistry {
  readonly address: string
  readonly #test: Test
  readonly #config: string
  #program: Program | undefined

  private constructor(t: Test, address: string, config: string) {
    this.#test = t
    this.address = address
    this.#config = config
  }

  static async start(t: Test): Promise<DockerRegistry> {
    const dir = shortDir(t)
    const address = `127.0.0.1:${await freePort()}`
    const file = join(dir, 'config.yml')
    const config = { version: 0.1, storage: { filesystem: { rootdirectory: dir } }, http: { addr: address } }
    writeFileSync(file, JSON.stringify(config))
    const registry = new DockerRegistry(t, address, file)
    await registry.start()
    return registry
  }

  async start(): Promise<void> {
    if (this.#program !== undefined) return
    const program = new Program(this.#test, 'docker-registry', ['serve', this.#config])
    this.#program = program
    await program.ready(
      async () => (await fetch(`http://${this.address}/v2/`).catch(() => undefined))?.ok === true,
    )
  }

  async stop(): Promise<void> {
    await this.#program?.stop()
    this.#program = undefined
  }
}

export class Dockerd {
  readonly #socket: string

  private constructor(socket: string) {
    this.#socket = socket
  }

  static async start(t: Test, mirror: string): Promise<Dockerd> {
    const dir = shortDir(t)
    const socket = join(dir, 'd.sock')
    const program = new Program(t, 'dockerd', [
      ...['--data-root', join(dir, 'data'), '--exec-root', join(dir, 'exec'), '-p', join(dir, 'd.pid')],
      ...['-H', `unix://${socket}`, '--storage-driver=vfs', '--registry-mirror', mirror],
      // No network of its own: nothing of the machine's is touched.
      ...['--bridge=none', '--iptables=false', '--ip6tables=false'],
    ])
    const dockerd = new Dockerd(socket)
    await program.ready(async () => existsSync(socket) && (await dockerd.attempt('version')).code === 0)
    return dockerd
  }

  async docker(...args: string[]): Promise<string> {
    const { code, stdout, stderr } = await this.attempt(...args)
    if (code !== 0) throw new Error(`docker ${args.join(' ')} ended with ${String(code)}:\n${stderr}`)
    return stdout
  }

  /** The same, whatever comes of it. */
  attempt(...args: string[]): Promise<Finished> {
    // Debian's own client speaks the version of Debian's daemon; another one may come first on the PATH.
    const client = existsSync('/usr/bin/docker') ? '/usr/bin/docker' : (findCommand('docker') ?? 'docker')
    return run(client, ['-H', `unix://${this.#socket}`, ...args])
  }
}

export class Containerd {
  readonly #dir: string
  readonly #socket: string
  #namespaces = 0

  private constructor(dir: string) {
    this.#dir = dir
    this.#socket = join(dir, 'c.sock')
  }

  static async start(t: Test): Promise<Containerd> {
    const dir = shortDir(t)
    const config = join(dir, 'config.toml')
    const containerd = new Containerd(dir)
    writeFileSync(
      config,
      `version = 2
root = "${dir}/root"
state = "${dir}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "${dir}/c.sock"
[ttrpc]
address = "${dir}/t.sock"
# What one namespace has pulled, another must fetch again.
[plugins."io.containerd.metadata.v1.bolt"]
content_sharing_policy = "isolated"
`,
    )
    const program = new Program(t, 'containerd', ['-c', config])
    await program.ready(async () => (await run('ctr', ['-a', containerd.#socket, 'version'])).code === 0)
    return containerd
  }

  /**
   * Pulls into an empty namespace.
   *
   * @param hosts registry name, or `_default` -> its hosts.toml
   */
  async pull(reference: string, hosts: Record<string, string>): Promise<string> {
    const namespace = `n${++this.#namespaces}`
    const hostsDir = join(this.#dir, namespace)
    for (const [name, text] of Object.entries(hosts)) {
      mkdirSync(join(hostsDir, name), { recursive: true })
      writeFileSync(join(hostsDir, name, 'hosts.toml'), text)
    }
    return succeed('ctr', [
      ...['-a', this.#socket, '-n', namespace, 'images', 'pull'],
      ...['--hosts-dir', hostsDir, '--snapshotter', 'native', reference],
    ])
  }
}
