/** Process edge: arguments, environment, signals, exit code. The only file that touches `process`. */
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
import { openAlone } from './parts/alone.ts'
import { serve } from './serve.ts'
import { verify } from '../admin/cli/verify.ts'

/** Under npm one Ctrl-C arrives twice, from the terminal and from npm: within this time both count as one. */
const SAME_SIGNAL_MS = 500

const crashHandlers: ((error: unknown) => void)[] = []

const io: ProcessIo = {
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
        if (first !== undefined && performance.now() - first > SAME_SIGNAL_MS) process.exit(1)
        first ??= performance.now()
        resolve(signal)
      }
      process.on('SIGTERM', receive).on('SIGINT', receive)
    }),
  onHangup: (handler) => void process.on('SIGHUP', handler),
  onCrash: (handler) => void crashHandlers.push(handler),
}

/** Drops the warning about FFI, an experimental module with a complete substitute. Others are printed. */
const emitWarning = process.emitWarning.bind(process) as (...it: unknown[]) => void
process.emitWarning = (warning: string | Error, ...rest: unknown[]): void => {
  if (typeof warning === 'string' && warning.startsWith('FFI is an experimental feature')) return
  emitWarning(warning, ...rest)
}

function crash(error: unknown): never {
  if (crashHandlers.length === 0)
    io.printError(
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

/** The exit code of SIGPIPE in a shell: `entrepot gc | head`. */
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

/** Makes an action for commander, which passes the command last; the process ends with its exit code. */
function exitWith<Args extends unknown[]>(run: (...args: [...Args, ProcessIo]) => Promise<number>) {
  return async (...given: [...Args, Command]): Promise<void> => {
    const args = given.slice(0, -1) as Args
    // A worker or a socket that lingers must not keep a stopped process alive.
    process.exit(await run(...args, io))
  }
}

function command(name: string, description: string, isDefault = false): Command {
  return program
    .command(name, { isDefault })
    .description(description)
    .option('-c, --config <file>', 'configuration file; else ENTREPOT_CONFIG, else the defaults')
}

const DRY_RUN = ['-n, --dry-run', 'only tell what would go'] as const
const NAMESPACE = ['--ns <registry>', 'as containerd and BuildKit say which registry they mean'] as const

const serveCommand = command('serve', 'serve the mirror (the default command)', true).action(exitWith(serve))

command('gc', 'free what was pushed and is named by nothing any more, and tell what')
  .option(...DRY_RUN)
  .action(exitWith(gc))

command('evict', 'free what was mirrored, least recently pulled first, and tell what')
  .option(...DRY_RUN)
  .option('--to <size>', 'down to that size, such as 20GiB or 50%; else to 90 % of the budget')
  .action(exitWith(evict))

command(
  'rm',
  'remove what was pushed, or what is mirrored: a tag (NAME:TAG), an image (NAME@DIGEST), or all of a name (--all NAME)',
)
  .argument('<ref...>')
  .addOption(
    new Option('--all', 'the whole repository; the name of one that was pushed stays local').conflicts(
      'release',
    ),
  )
  .option('--release', 'let go of the name of an empty repository, so that it is mirrored again')
  .action(exitWith(rm))

command('explain', 'tell which rule takes a name, what of the image is here, and what a pull would do now')
  .argument('<ref>', 'nginx, team/app:1, quay.io/x/y@sha256:…')
  .option(...NAMESPACE)
  .option('--json', 'all of it, for programs')
  .action(exitWith(explain))

command('ls', 'list what can be pulled here: name, digest, size, when it was pulled and when it came')
  .argument('[pattern]', 'what names begin with, or a glob such as quay.io/**:v1.*')
  .option('--json', 'one JSON object a line')
  .action(exitWith(ls))

command('refresh', 'ask upstream about an image now, and fetch what is missing of what was here of it')
  .argument('<ref...>')
  .option(...NAMESPACE)
  .action(exitWith(refresh))

command(
  'verify',
  'check every file against its digest, and the index against the files; exit 1 when something is wrong',
)
  .option('--repair', 'drop what can be fetched again, and put aside what cannot')
  .option('--rebuild', 'make a lost index anew from the files that are here, and repair it; without a server')
  .action(exitWith(verify))

command('backup', 'save everything that was pushed in one file, also while the server runs')
  .requiredOption(
    '-o, --output <file>',
    'a tar archive, laid out as an OCI image layout; - for standard output',
  )
  .action(exitWith(backup))

command('restore', 'bring back what a backup holds; what is here already stays')
  .argument('<file>')
  .option('--overwrite', 'also move tags that name something else here')
  .option(
    '--allow-denied',
    'also names that no push could take: reserved ones, and such as would hide an upstream',
  )
  .action(exitWith(restore))

// Most operators only ever want the options of `serve`.
program.addHelpText('after', () => `\nserve:\n${serveCommand.helpInformation()}`)

try {
  await program.parseAsync()
} catch (error) {
  if (!(error instanceof CommanderError)) crash(error)
  // Help and version are no errors; any other error about the arguments counts as one of configuration.
  process.exitCode = error.exitCode === 0 ? 0 : 2
}
