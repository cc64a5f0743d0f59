/** Takes the lock of the folder it is given and keeps it. */
import { acquireRootLock } from '../../../src/storage/locks/root-lock.ts'

const lock = acquireRootLock(process.argv[2] ?? '')
console.log('held')
setInterval(() => lock, 1000)
