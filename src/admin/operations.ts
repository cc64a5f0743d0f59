/**
 * What a command asks of whoever owns the folder: a running server, through its control socket, or, where none runs,
 * the command itself, which takes the folder's lock and does the same with the same parts.
 *
 * A further operation is 1. a method in {@link Operations} and its name in {@link OPERATIONS}: `name(args, signal)`
 * yields its events; arguments and events are plain JSON (no Date, Map, undefined in lists; what is left out is left
 * out); 2. written as an async generator in the room that it belongs to, and put in its place in
 * `src/app/parts/operations.ts`; 3. a command in `src/cli/` that does `withKeeper(config, edge, async (keeper, signal)
 * => { for await (const event of keeper.name(args, signal)) … })` and never learns which of the two it talks to.
 *
 * An operation parses what it was given (the other end may be another version of us), throws the signal's reason soon
 * after it aborts (Ctrl-C, the client gone, the server stopping), holds no lock while it yields (the reader may be
 * slow), and throws {@link OperatorError} for what the person has to do otherwise. Paths in arguments are absolute.
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
  /** What goes, or would go, as it goes. */
  gc(args: { readonly dryRun: boolean }, signal: AbortSignal): AsyncIterable<Collected>
  /**
   * What was mirrored and goes, or would go, least recently pulled first.
   *
   * @param args.to a size, or a share of the file system; left out: where eviction stops by itself
   */
  evict(
    args: { readonly dryRun: boolean; readonly to?: string | undefined },
    signal: AbortSignal,
  ): AsyncIterable<Evicted>
  /** @throws OperatorError for what is not there */
  rm(
    args: { readonly name: string; readonly reference?: string | undefined },
    signal: AbortSignal,
  ): AsyncIterable<Removed>
  /** Lets go of a local name, so that it is mirrored again. @throws OperatorError while it holds something */
  release(args: { readonly name: string }, signal: AbortSignal): AsyncIterable<Removed>
  /** @param args.ref `nginx`, `team/app:1`, `quay.io/x/y@sha256:…`. One event. @throws OciError for what is no name */
  explain(
    args: { readonly ref: string; readonly namespace?: string | undefined },
    signal: AbortSignal,
  ): AsyncIterable<Explanation>
  /** What can be pulled here, by name; `pattern` is a glob, or what names begin with. */
  ls(args: { readonly pattern?: string | undefined }, signal: AbortSignal): AsyncIterable<ListPart>
  /** Brings one mirrored image up to date. @throws OperatorError for what is not mirrored, or not here */
  refresh(
    args: { readonly ref: string; readonly namespace?: string | undefined },
    signal: AbortSignal,
  ): AsyncIterable<RefreshEvent>
  /**
   * What is wrong, as it is found; with `repair`, what was done about it.
   *
   * @param args.rebuild first writes down what the index does not know @throws OperatorError beside a server
   */
  verify(
    args: { readonly repair: boolean; readonly rebuild?: boolean | undefined },
    signal: AbortSignal,
  ): AsyncIterable<VerifyEvent>
  /** Everything that was pushed, in one archive: at `to`, or, without it, in pieces. */
  backup(args: { readonly to?: string | undefined }, signal: AbortSignal): AsyncIterable<BackupEvent>
  /** @param args.allowDenied also names that no push could take. @throws OperatorError for them without it */
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

/** The names that may come over the wire. */
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
