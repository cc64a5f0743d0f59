/** What the real crane gets, with nothing cached, with everything, and when the registry is gone. */
import { crane } from './clients/crane.ts'
import { testClient } from './clients/table.ts'

testClient(crane)
