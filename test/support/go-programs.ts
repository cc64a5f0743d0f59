/**
 * The real clients that no Debian has as new as they are in the field.
 *
 * Tests take what was built before (`npm run programs`): minutes of compiling are no part of a test.
 */
import { findInstalled, type GoInstall } from './go.ts'

export const GO_CLIENTS: readonly GoInstall[] = [
  {
    module: 'github.com/google/go-containerregistry',
    version: 'v0.22.1',
    commands: { crane: 'cmd/crane' },
  },
  { module: 'oras.land/oras', version: 'v1.3.6', commands: { oras: 'cmd/oras' } },
  { module: 'github.com/regclient/regclient', version: 'v0.11.7', commands: { regctl: 'cmd/regctl' } },
  { module: 'helm.sh/helm/v3', version: 'v3.22.0', commands: { helm: 'cmd/helm' } },
  {
    module: 'github.com/containerd/containerd/v2',
    version: 'v2.4.2',
    commands: { containerd: 'cmd/containerd', ctr: 'cmd/ctr' },
  },
]

/** @returns the file of a program; undefined when it was not built here */
export function findGoProgram(program: string): string | undefined {
  const install = GO_CLIENTS.find(({ commands }) => program in commands)
  if (install === undefined) throw new Error(`nobody knows how to build ${program}`)
  return findInstalled(install, program)
}

/** The file of a program that is here, for a test that {@link missingGoPrograms} let through. */
export function goProgram(program: string): string {
  const file = findGoProgram(program)
  if (file === undefined) throw new Error(`${program} was not built here`)
  return file
}

/** For the options of a test: what was not built here, or false. */
export function missingGoPrograms(...programs: string[]): string | false {
  const absent = programs.filter((program) => findGoProgram(program) === undefined)
  return absent.length > 0 && `not built here, by "npm run programs": ${absent.join(', ')}`
}
