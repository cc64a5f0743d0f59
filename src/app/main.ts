/**
 * The process edge: arguments, environment, signals, exit code. The only file that touches `process`.
 */
import { readFileSync } from 'node:fs'
import { Command, CommanderError, Option } from 'commander'
import { backup } from '../admin/cli/backup.ts'
import { plainText, type ProcessIo } from '../admin/cli/process-io.ts'
import { evict } from '../admin/cli/evict.ts'
import { explain } from '../admin/cli/explain.ts'
import { gc } from '../admin/cli/gc.ts'
import { ls } from '../admin/cli/ls.ts'
import { refresh } from '../admin/cli/refresh.ts'
import { rm } from '../admin/cli/rm.ts'
import { restore } from '../admin/cli/restore.ts'
import { openAlone } from './parts/operations.ts'
import { serve } from './serve.ts'
import { verify } from '../admin/cli/verify.ts'

/** Ctrl-C under npm arrives twice, from the terminal and from npm; that is one wish. */
const SAME_WISH_MS = 500

const crashHandlers: ((error: unknown) => void)[] = []

const edge: ProcessIo = {
  openAlone,
  env: process.env,
  stdoutIsTty: process.stdout.isTTY,
  stderrIsTty: process.stderr.isTTY,
  print: (line) => void process.stdout.write(`${plainText(line)}\n`),
  printError: (line) => void process.stderr.write(`${plainText(line)}\n`),
  writeStderr: (text) => void process.stderr.write(text),
  write: (bytes) =>
    new Promise((resolve, reject) => {
      process.stdout.write(bytes, (error) => {
        if (error) reject(error)
        else resolve()
      })
    }),
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
  onHangup: (handler) => void process.on('SIGHUP', handler),
  onCrash: (handler) => void crashHandlers.push(handler),
}

/** One module is experimental and has a complete substitute: nobody needs to be told. All other warnings are. */
const emitWarning = process.emitWarning.bind(process) as (...it: unknown[]) => void
process.emitWarning = (warning: string | Error, ...rest: unknown[]): void => {
  if (typeof warning === 'string' && warning.startsWith('FFI is an experimental feature')) return
  emitWarning(warning, ...rest)
}

function crash(error: unknown): never {
  if (crashHandlers.length === 0)
    edge.printError(
      `entrepot crashed: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`,
    )
  for (const handler of crashHandlers) handler(error)
  process.exit(1)
}

function version(): string {
  const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as {
    version: string
  }
  return version
}

/** As a shell tells of a program whose reader went away: `entrepot gc | head`. */
const READER_GONE = 141

process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EPIPE') crash(error)
  process.exit(READER_GONE)
})
process.on('uncaughtException', crash).on('unhandledRejection', crash)

const program = new Command('entrepot')
  .description('A pull-through caching mirror for container registries.')
  .version(version())
  .exitOverride()

const CONFIG = ['-c, --config <file>', 'configuration file; else ENTREPOT_CONFIG, else the defaults'] as const

const serving = program
  .command('serve', { isDefault: true })
  .description('serve the mirror (the default command)')
  .option(...CONFIG)
  .action(async (options: { config?: string }) => {
    // A worker or a socket that lingers must not keep a stopped server alive.
    process.exit(await serve(options, edge))
  })

program
  .command('gc')
  .description('free what was pushed and is named by nothing any more, and tell what')
  .option(...CONFIG)
  .option('-n, --dry-run', 'only tell what would go')
  .action(async (options: { config?: string; dryRun?: boolean }) => {
    process.exit(await gc(options, edge))
  })

program
  .command('evict')
  .description('free what was mirrored, least recently pulled first, and tell what')
  .option(...CONFIG)
  .option('-n, --dry-run', 'only tell what would go')
  .option('--to <size>', 'down to that size, such as 20GiB or 50%; else to 90 % of the budget')
  .action(async (options: { config?: string; dryRun?: boolean; to?: string }) => {
    process.exit(await evict(options, edge))
  })

program
  .command('rm')
  .description(
    'remove what was pushed, or what is mirrored: a tag (NAME:TAG), an image (NAME@DIGEST), or all of a name (--all NAME)',
  )
  .argument('<ref...>')
  .option(...CONFIG)
  .addOption(
    new Option('--all', 'the whole repository; the name of one that was pushed stays local').conflicts(
      'release',
    ),
  )
  .option('--release', 'let go of the name of an empty repository, so that it is mirrored again')
  .action(async (refs: string[], options: { config?: string; all?: boolean; release?: boolean }) => {
    process.exit(await rm(refs, options, edge))
  })

program
  .command('explain')
  .description('tell which rule takes a name, what of the image is here, and what a pull would do now')
  .argument('<ref>', 'nginx, team/app:1, quay.io/x/y@sha256:…')
  .option(...CONFIG)
  .option('--ns <registry>', 'as containerd and BuildKit say which registry they mean')
  .option('--json', 'all of it, for programs')
  .action(async (ref: string, options: { config?: string; ns?: string; json?: boolean }) => {
    process.exit(await explain(ref, options, edge))
  })

program
  .command('ls')
  .description('list what can be pulled here: name, digest, size, when it was pulled and when it came')
  .argument('[pattern]', 'what names begin with, or a glob such as quay.io/**:v1.*')
  .option(...CONFIG)
  .option('--json', 'one JSON object a line')
  .action(async (pattern: string | undefined, options: { config?: string; json?: boolean }) => {
    process.exit(await ls(pattern, options, edge))
  })

program
  .command('refresh')
  .description('ask upstream about an image now, and fetch what is missing of what was here of it')
  .argument('<ref...>')
  .option(...CONFIG)
  .option('--ns <registry>', 'as containerd and BuildKit say which registry they mean')
  .action(async (refs: string[], options: { config?: string; ns?: string }) => {
    process.exit(await refresh(refs, options, edge))
  })

program
  .command('verify')
  .description(
    'check every file against its digest, and the index against the files; exit 1 when something is wrong',
  )
  .option(...CONFIG)
  .option('--repair', 'drop what can be fetched again, and put aside what cannot')
  .option('--rebuild', 'make a lost index anew from the files that are here, and repair it; without a server')
  .action(async (options: { config?: string; repair?: boolean; rebuild?: boolean }) => {
    process.exit(await verify(options, edge))
  })

program
  .command('backup')
  .description('save everything that was pushed in one file, also while the server runs')
  .option(...CONFIG)
  .requiredOption(
    '-o, --output <file>',
    'a tar archive, laid out as an OCI image layout; - for standard output',
  )
  .action(async (options: { config?: string; output: string }) => {
    process.exit(await backup(options, edge))
  })

program
  .command('restore')
  .description('bring back what a backup holds; what is here already stays')
  .argument('<file>')
  .option(...CONFIG)
  .option('--overwrite', 'also move tags that name something else here')
  .option(
    '--allow-denied',
    'also names that no push could take: reserved ones, and such as would hide an upstream',
  )
  .action(async (file: string, options: { config?: string; overwrite?: boolean; allowDenied?: boolean }) => {
    process.exit(await restore(file, options, edge))
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
