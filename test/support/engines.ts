/**
 * The ways by which a blob leaves: no client can tell which it was.
 */
import type { LinuxSyscalls } from '../../src/http/transfer/linux-syscalls.ts'

interface Engine {
  readonly by: string
  readonly server: { readonly sendfile?: boolean }
  /** Given: there is no FFI. */
  readonly overrides: { readonly kernel?: LinuxSyscalls | undefined }
}

export const ENGINES: readonly Engine[] = [
  { by: 'by the kernel', server: {}, overrides: {} },
  { by: 'by copying', server: { sendfile: false }, overrides: {} },
  { by: 'by threads that copy', server: {}, overrides: { kernel: undefined } },
]
export type { Engine }
