/**
 * The real clients that were built here before, quickly: cold, hot, and with the registry stopped.
 *
 * test/real has them all, under whatever befalls a registry.
 */
import { crane } from '../../real/clients/crane.ts'
import { helm } from '../../real/clients/helm.ts'
import { oras } from '../../real/clients/oras.ts'
import { regctl } from '../../real/clients/regctl.ts'
import { testClient } from '../../real/clients/table.ts'

for (const client of [crane, regctl, oras, helm]) testClient(client, { quick: true })
