;; Imports what no function may have.
(module
  (import "env" "abort" (func))
  (import "hpmq" "http" (func (param i32) (result i32)))
  (import "hpmq" "log" (func (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open" (func (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "hpmq_abi") (result i32) (i32.const 1))
  (func (export "hpmq_alloc") (param i32) (result i32) (i32.const 16))
  (func (export "hpmq_upstream") (param i32 i32) (result i64) (i64.const 0)))
