/**
 * The process edge: arguments, environment, signals, exit code. The only file that touches `process`.
 */
import { readFileSync } from 'node:fs'
import { Command, CommanderError } from 'commander'
import type { Edge } from './cli/edge.ts'
import { serve } from './cli/serve.ts'

/** Ctrl-C under npm arrives twice, from the terminal and from npm; that is one wish. */
const SAME_WISH_MS = 500

const crashHandlers: ((error: unknown) => void)[] = []

const edge: Edge = {
  env: process.env,
  terminal: process.stdout.isTTY,
  print: (line) => void process.stdout.write(`${line}\n`),
  complain: (line) => void process.stderr.write(`${line}\n`),
  stopSignal: () =>
    new Promise((resolve) => {
      let first: number | undefined
      const receive = (signal: NodeJS.Signals): void => {
        if (first !== undefined && performance.now() - first > SAME_WISH_MS) process.exit(1)
        first ??= performance.now()
        resolve(signal)
      }
      process.on('SIGTERM', receive).on('SIGINT', receive)
    }),
  onCrash: (handler) => void crashHandlers.push(handler),
}

function crash(error: unknown): never {
  if (crashHandlers.length === 0)
    edge.complain(
      `entrepot crashed: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`,
    )
  for (const handler of crashHandlers) handler(error)
  process.exit(1)
}

function version(): string {
  const { version } = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8')) as {
    version: string
  }
  return version
}

process.on('uncaughtException', crash).on('unhandledRejection', crash)

const program = new Command('entrepot')
  .description('A pull-through caching mirror for container registries.')
  .version(version())
  .exitOverride()

const serving = program
  .command('serve', { isDefault: true })
  .description('serve the mirror (the default command)')
  .option('-c, --config <file>', 'configuration file; else ENTREPOT_CONFIG, else the defaults')
  .action(async (options: { config?: string }) => {
    // A worker or a socket that lingers must not keep a stopped server alive.
    process.exit(await serve(options, edge))
  })

// Most people only ever want these.
program.addHelpText('after', () => `\nserve:\n${serving.helpInformation()}`)

try {
  await program.parseAsync()
} catch (error) {
  if (!(error instanceof CommanderError)) crash(error)
  // Help and version are no mistakes; anything else about the arguments is one of configuration.
  process.exitCode = error.exitCode === 0 ? 0 : 2
}
