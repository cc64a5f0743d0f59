/** What the real podman gets, with nothing cached, with everything, and when the registry is gone. */
import { podman } from './clients/podman.ts'
import { testClient } from './clients/table.ts'

testClient(podman)
