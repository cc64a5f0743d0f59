/**
 * Debian's `docker-registry` as a process of its own, on a free port of loopback and in a folder of its own.
 */
import { spawn, type ChildProcess } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { findCommand, freePort } from '../../test/support/programs.ts'

export class DockerRegistry implements AsyncDisposable {
  readonly url: string
  readonly folder: string
  readonly #process: ChildProcess

  private constructor(process: ChildProcess, url: string, folder: string) {
    this.#process = process
    this.url = url
    this.folder = folder
  }

  static async start(): Promise<DockerRegistry> {
    const command = findCommand('docker-registry')
    if (command === undefined) throw new Error("docker-registry (Debian's package) is not installed")
    const folder = mkdtempSync(path.join(tmpdir(), 'entrepot-bench-'))
    const address = `127.0.0.1:${String(await freePort())}`
    const file = path.join(folder, 'config.yml')
    // As Debian's package has it, but for the folder and the port.
    const config = {
      version: 0.1,
      log: { level: 'info' },
      storage: {
        cache: { blobdescriptor: 'inmemory' },
        filesystem: { rootdirectory: path.join(folder, 'data') },
        delete: { enabled: true },
      },
      http: { addr: address },
    }
    writeFileSync(file, JSON.stringify(config))
    const child = spawn(command, ['serve', file], { stdio: 'ignore' })
    const url = `http://${address}`
    const registry = new DockerRegistry(child, url, folder)
    for (let tries = 0; (await fetch(`${url}/v2/`).catch(() => undefined))?.ok !== true; tries++) {
      if (tries > 200 || child.exitCode !== null) {
        await registry[Symbol.asyncDispose]()
        throw new Error('docker-registry does not start')
      }
      await sleep(50)
    }
    return registry
  }

  get pid(): number | undefined {
    return this.#process.pid
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#process.exitCode === null) {
      const ended = new Promise((resolve) => this.#process.once('exit', resolve))
      this.#process.kill('SIGTERM')
      await ended
    }
    rmSync(this.folder, { recursive: true, force: true })
  }
}
