/**
 * `entrepot verify`: checks everything against its digest and the index; `--repair` repairs what can be repaired, and
 * `--rebuild` first makes a lost index anew.
 *
 * Exit codes: 0 nothing is wrong (any more), 1 something is. The report is for people: by kind, pushed content first.
 */
import type { Finding, FindingKind, Progress } from '../../storage/integrity/findings.ts'
import { plainLine } from '../../telemetry/control-characters.ts'
import type { CommonOptions } from './load-config.ts'
import type { ProcessIo } from './process-io.ts'
import { withOperations } from './connect.ts'
import { ProgressBar } from './progress-bar.ts'
import { count, sizeText } from '../../base/format.ts'

/** In the order of the report. */
const TITLES: Record<FindingKind, string> = {
  database: 'The metadata database is damaged: nothing else was looked at',
  corrupt: 'Damaged: the bytes are not those of the digest',
  missing: 'Missing: the index names them, the file is gone',
  unreadable: 'Unreadable',
  incomplete: 'Incomplete: manifests without all of their blobs',
  tag: 'Tags that name nothing',
  manifest: 'Manifests that the index has wrong',
  size: 'Sizes that the index has wrong',
  quarantine: 'In quarantine',
  recovered: 'Recovered from the files: what was pushed or mirrored under names that are lost',
  orphan: 'Unknown to the index (no fault: a collection removes them after push.gcGrace)',
  child: 'Indexes that name manifests not pushed here (no fault)',
  partial: 'Partial files (no fault)',
  foreign: 'Not blobs (no fault)',
}

const ORIGINS: Record<Finding['origin'], string> = {
  pushed: 'pushed',
  both: 'pushed, mirrored',
  mirrored: 'mirrored',
  nobody: '',
}

const MOST_USES = 10

/** @returns the exit code */
export function verify(
  options: CommonOptions & { readonly repair?: boolean; readonly rebuild?: boolean },
  io: ProcessIo,
): Promise<number> {
  const { rebuild = false, repair = rebuild } = options
  const command: Parameters<typeof withOperations>[2] = async (operations, signal) => {
    const findings: Finding[] = []
    let checked = { blobs: 0, bytes: 0 }
    {
      using bar = new ProgressBar(io)
      for await (const event of operations.verify({ repair, rebuild }, signal)) {
        if ('progress' in event) bar.showBytes(event.progress, filesText(event.progress))
        else if ('finding' in event) findings.push(event.finding)
        else checked = event.checked
      }
    }
    report(findings, io)
    const wrong = findings.filter((it) => it.wrong)
    const remaining = wrong.filter((it) => it.remains)
    const lost = remaining.filter(({ origin }) => origin === 'pushed' || origin === 'both')
    const verdict = [
      wrong.length === 0 ? 'nothing is wrong' : `${wrong.length} wrong`,
      ...(repair && wrong.length > 0 ? [`${wrong.length - remaining.length} mended`] : []),
      ...(repair && remaining.length > 0 ? [`${remaining.length} still wrong`] : []),
      ...(lost.length > 0 ? [`${lost.length} of them of pushed content: ${adviceFor(lost, repair)}`] : []),
    ]
    io.print(
      `${count(checked.blobs, 'file', 'files')} checked, ${sizeText(checked.bytes)}: ${verdict.join(', ')}`,
    )
    return remaining.length > 0 ? 1 : 0
  }
  return withOperations(options, io, command, { replaceLostIndex: rebuild })
}

function adviceFor(lost: readonly Finding[], repair: boolean): string {
  // As long as a damaged file is in its place, a client that pushes is told that the blob is here.
  const inTheWay = !repair && lost.some(({ kind }) => kind === 'corrupt')
  return `${inTheWay ? '--repair puts it aside, then ' : ''}push it again, or restore it`
}

function filesText({ blobs, totalBlobs }: Progress): string {
  return `${Math.min(blobs, totalBlobs)} of ${totalBlobs} files, `
}

function report(findings: readonly Finding[], io: ProcessIo): void {
  for (const [kind, title] of Object.entries(TITLES)) {
    const ofKind = findings.filter((it) => it.kind === kind)
    if (ofKind.length === 0) continue
    io.print(`${title} (${ofKind.length})`)
    for (const origin of ['pushed', 'both', 'mirrored', 'nobody'] as const) {
      for (const finding of ofKind.filter((it) => it.origin === origin)) describe(finding, io)
    }
    io.print('')
  }
}

function describe({ origin, subject, detail, uses, moreUses, repair }: Finding, io: ProcessIo): void {
  const kind = ORIGINS[origin] === '' ? '' : `[${ORIGINS[origin]}] `
  io.print(plainLine(`  ${kind}${subject}: ${detail}`))
  const some = uses.slice(0, MOST_USES)
  const more = uses.length - some.length + moreUses
  if (some.length > 0) io.print(`    hits ${some.join(', ')}${more > 0 ? ` and ${more} more` : ''}`)
  if (repair !== undefined) io.print(`    ${repair}`)
}
