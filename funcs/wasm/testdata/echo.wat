;; Publishes the payload on topic "out/echo" with QoS 1 and retain, and with a
;; payload of "2" publishes it twice. A copy of its own: the response lies apart
;; from the request.
(module
  (memory (export "memory") 20)
  (data (i32.const 16) "\00\00\00\00\01\00\00\00\01\01\08\00")
  (data (i32.const 32) "\00\00\00\00\02\00\00\00\00\00\05\00\01\00\00\00\01\00\05\00\01\00\00\00out/x1out/y2")
  (func (export "hpmq_abi") (result i32) (i32.const 1))
  (func (export "hpmq_alloc") (param i32) (result i32) (i32.const 655360))
  (func (export "hpmq_upstream") (param $ptr i32) (param $len i32) (result i64)
    (local $payload i32) (local $size i32)
    (local.set $payload (i32.add (i32.add (local.get $ptr) (i32.const 16))
      (i32.add (i32.mul (i32.load16_u offset=2 (local.get $ptr)) (i32.const 4)) (i32.load16_u (local.get $ptr)))))
    (local.set $size (i32.load offset=4 (local.get $ptr)))
    (if (i32.and (i32.eq (local.get $size) (i32.const 1)) (i32.eq (i32.load8_u (local.get $payload)) (i32.const 0x32)))
      (then (return (i64.const 0x0000002000000024))))
    (i64.store (i32.const 1024) (i64.load (i32.const 16)))
    (i32.store (i32.const 1032) (i32.load (i32.const 24)))
    (i32.store (i32.const 1036) (local.get $size))
    (i64.store (i32.const 1040) (i64.const 0x6f6863652f74756f)) ;; out/echo
    (memory.copy (i32.const 1048) (local.get $payload) (local.get $size))
    (i64.or (i64.const 0x0000040000000000) (i64.extend_i32_u (i32.add (local.get $size) (i32.const 24)))))
  )
