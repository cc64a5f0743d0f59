/**
 * Operations of the commands, done by the process that owns the folder: a running server, through its control socket,
 * or, where none runs, the command itself, which takes the folder's lock and does the same with the same parts.
 *
 * To add one:
 * - a method in {@link Operations} and its name in {@link OPERATIONS}: `name(args, signal)` yields its events;
 *   arguments and events are plain JSON (no Date, no Map, no undefined in lists);
 * - an async generator in the folder of its topic, called in `src/app/parts/operations.ts`;
 * - a command in `src/admin/cli/` that reads the events by `withOperations`, whichever process yields them.
 *
 * An operation parses its arguments (the client may be of another version), throws the signal's reason soon after it
 * aborts (Ctrl-C, the client gone, the server stopping), holds no lock while it yields (the reader may be slow), and
 * throws {@link OperatorError} where the operator has to act. Paths in arguments are absolute.
 */
import type { Evicted } from '../cache/eviction/eviction-order.ts'
import type { Collected } from '../storage/gc/collector.ts'
import type { Explanation } from './explain/explanation.ts'
import type { ListPart } from './images/list.ts'
import type { RefreshEvent } from './images/refresh-image.ts'
import type { Removed } from './images/delete-local.ts'
import type { BackupEvent } from './archive/write-archive.ts'
import type { VerifyEvent } from '../storage/integrity/findings.ts'
import type { RestoreEvent } from './archive/restore-repository.ts'

export interface Operations {
  /** Yields each collected entry; with `dryRun` each that would be. */
  gc(args: { readonly dryRun: boolean }, signal: AbortSignal): AsyncIterable<Collected>
  /**
   * Yields each mirrored entry that is evicted, or would be, least recently pulled first.
   *
   * @param args.to a size, or a share of the file system; left out: where eviction stops by itself
   */
  evict(
    args: { readonly dryRun: boolean; readonly to?: string | undefined },
    signal: AbortSignal,
  ): AsyncIterable<Evicted>
  /** @throws OperatorError when there is no such tag, image or repository */
  rm(
    args: { readonly name: string; readonly reference?: string | undefined },
    signal: AbortSignal,
  ): AsyncIterable<Removed>
  /** Releases a local name, so that it is mirrored again. @throws OperatorError while its repository is not empty */
  release(args: { readonly name: string }, signal: AbortSignal): AsyncIterable<Removed>
  /** @param args.ref `nginx`, `team/app:1`, `quay.io/x/y@sha256:…` @throws OciError when it is no reference */
  explain(
    args: { readonly ref: string; readonly namespace?: string | undefined },
    signal: AbortSignal,
  ): AsyncIterable<Explanation>
  /** Yields what clients can pull here, by name; `pattern` is a glob or a prefix. */
  ls(args: { readonly pattern?: string | undefined }, signal: AbortSignal): AsyncIterable<ListPart>
  /** Brings one mirrored image up to date. @throws OperatorError when it is not mirrored, or not here */
  refresh(
    args: { readonly ref: string; readonly namespace?: string | undefined },
    signal: AbortSignal,
  ): AsyncIterable<RefreshEvent>
  /**
   * Yields each finding; with `repair`, also how it was repaired.
   *
   * @param args.rebuild first adds to the index what it does not know @throws OperatorError beside a running server
   */
  verify(
    args: { readonly repair: boolean; readonly rebuild?: boolean | undefined },
    signal: AbortSignal,
  ): AsyncIterable<VerifyEvent>
  /** Writes everything that was pushed into one archive at `to`; without `to`, yields its bytes. */
  backup(args: { readonly to?: string | undefined }, signal: AbortSignal): AsyncIterable<BackupEvent>
  /** @param args.allowDenied also restores names that no push could take, which are an OperatorError otherwise */
  restore(
    args: {
      readonly from: string
      readonly overwrite: boolean
      readonly allowDenied?: boolean | undefined
    },
    signal: AbortSignal,
  ): AsyncIterable<RestoreEvent>
}

export type OperationName = keyof Operations

/** The names that the control socket accepts. */
export const OPERATIONS = Object.keys({
  gc: true,
  evict: true,
  rm: true,
  release: true,
  explain: true,
  ls: true,
  refresh: true,
  verify: true,
  backup: true,
  restore: true,
} satisfies Record<OperationName, true>) as OperationName[]
