/** What the real containerd 2.4, and its ctr, gets, with nothing cached, with everything, and when the registry is gone. */
import { containerd } from './clients/containerd.ts'
import { testClient } from './clients/table.ts'

testClient(containerd)
