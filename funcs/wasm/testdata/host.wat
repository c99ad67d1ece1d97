;; Calls the host as the first byte of the payload says and answers reject with
;; reason code 128 and, as text, the four bytes of the last host call's result
;; made printable: the digits of result + 100.
(module
  (import "hpmq" "log" (func $log (param i32 i32 i32) (result i32)))
  (import "hpmq" "kv_get" (func $get (param i32 i32 i32 i32) (result i32)))
  (import "hpmq" "kv_put" (func $put (param i32 i32 i32 i32) (result i32)))
  (import "hpmq" "kv_del" (func $del (param i32 i32) (result i32)))
  (import "hpmq" "prev" (func $prev (param i32 i32 i32 i32) (result i32)))
  (import "hpmq" "time_ms" (func $time (param i32) (result i32)))
  (memory (export "memory") 2)
  (data (i32.const 16) "\03\00\00\00\80\00\00\00000")
  (data (i32.const 64) "key")
  (data (i32.const 80) "value")
  (data (i32.const 96) "hello")
  (func (export "hpmq_abi") (result i32) (i32.const 1))
  (func (export "hpmq_alloc") (param i32) (result i32) (i32.const 1024))
  (func (export "hpmq_downstream") (param $ptr i32) (param $len i32) (result i64)
    (local $c i32) (local $r i32) (local $topic i32)
    (local.set $topic (i32.add (i32.add (local.get $ptr) (i32.const 16))
      (i32.mul (i32.load16_u offset=2 (local.get $ptr)) (i32.const 4))))
    (local.set $c (i32.load8_u (i32.add (local.get $topic) (i32.load16_u (local.get $ptr)))))
    (if (i32.eq (local.get $c) (i32.const 0x6c)) (then  ;; l: log
      (local.set $r (call $log (i32.const 1) (i32.const 96) (i32.const 5)))))
    (if (i32.eq (local.get $c) (i32.const 0x4c)) (then  ;; L: log from outside memory
      (local.set $r (call $log (i32.const 1) (i32.const -1) (i32.const 5)))))
    (if (i32.eq (local.get $c) (i32.const 0x67)) (then  ;; g: get
      (local.set $r (call $get (i32.const 64) (i32.const 3) (i32.const 2048) (i32.const 64)))))
    (if (i32.eq (local.get $c) (i32.const 0x73)) (then  ;; s: get into a short buffer
      (local.set $r (call $get (i32.const 64) (i32.const 3) (i32.const 2048) (i32.const 2)))))
    (if (i32.eq (local.get $c) (i32.const 0x70)) (then  ;; p: put
      (local.set $r (call $put (i32.const 64) (i32.const 3) (i32.const 80) (i32.const 5)))))
    (if (i32.eq (local.get $c) (i32.const 0x50)) (then  ;; P: put, then trap
      (local.set $r (call $put (i32.const 64) (i32.const 3) (i32.const 80) (i32.const 5))) unreachable))
    (if (i32.eq (local.get $c) (i32.const 0x6b)) (then  ;; k: too long a key
      (local.set $r (call $put (i32.const 64) (i32.const 257) (i32.const 80) (i32.const 5)))))
    (if (i32.eq (local.get $c) (i32.const 0x76)) (then  ;; v: a value outside memory
      (local.set $r (call $put (i32.const 64) (i32.const 3) (i32.const 131070) (i32.const 5)))))
    (if (i32.eq (local.get $c) (i32.const 0x64)) (then  ;; d: delete
      (local.set $r (call $del (i32.const 64) (i32.const 3)))))
    (if (i32.eq (local.get $c) (i32.const 0x71)) (then  ;; q: previous payload of this topic
      (local.set $r (call $prev (local.get $topic) (i32.load16_u (local.get $ptr)) (i32.const 2048) (i32.const 64)))))
    (if (i32.eq (local.get $c) (i32.const 0x74)) (then  ;; t: time
      (local.set $r (call $time (i32.const 2048)))))
    (local.set $r (i32.add (local.get $r) (i32.const 100)))
    (i32.store8 (i32.const 24) (i32.add (i32.const 48) (i32.div_u (local.get $r) (i32.const 100))))
    (i32.store8 (i32.const 25) (i32.add (i32.const 48) (i32.rem_u (i32.div_u (local.get $r) (i32.const 10)) (i32.const 10))))
    (i32.store8 (i32.const 26) (i32.add (i32.const 48) (i32.rem_u (local.get $r) (i32.const 10))))
    (i64.const 0x000000100000000b)))
