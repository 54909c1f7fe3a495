// Package node is one peer: it puts the directory, the state, the ordered log and the record cache together behind one set
// of storage operations.
//
// A Node may be used from any goroutine. Close ends every goroutine that Open started. What broke the node (a failed write
// or fsync, a panic) ends its commits for good, with *replica.Broken; what was committed stays readable.
package node
