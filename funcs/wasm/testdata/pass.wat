;; Answers pass, drop or reject after the first byte of the payload, traps on
;; "t", loops on "l", recurses on "r", branches into a tree of calls without a
;; loop on "x", grows memory on "m", grows its table on "g", leaves a bad
;; response on "p", "n" and "z", and fails with a text on "f".
(module
  (import "hpmq" "error" (func $error (param i32 i32) (result i32)))
  (memory (export "memory") 2)
  (table 1 funcref)
  (data (i32.const 16) "\01\00\00\00\00\00\00\00")                  ;; pass
  (data (i32.const 32) "\02\00\00\00\00\00\00\00")                  ;; drop
  (data (i32.const 48) "\03\00\00\00\87\00\00\00not here")          ;; reject
  (data (i32.const 80) "cannot read it")
  (data (i32.const 96) "\00\00\00\00\ff\ff\00\00")                  ;; 65535 messages
  (func (export "hpmq_abi") (result i32) (i32.const 1))
  (func (export "hpmq_alloc") (param i32) (result i32)
    (if (i32.gt_u (local.get 0) (i32.const 65536)) (then (return (i32.const 0))))
    (i32.const 1024))
  (func $answer (param $ptr i32) (param $len i32) (result i64)
    (i64.or (i64.shl (i64.extend_i32_u (local.get $ptr)) (i64.const 32)) (i64.extend_i32_u (local.get $len))))
  (func $recurse (param i32) (result i32)
    (i32.add (call $recurse (i32.add (local.get 0) (i32.const 1))) (i32.const 1)))
  (func $tree (param i32)
    (if (i32.eqz (local.get 0)) (then (return)))
    (call $tree (i32.sub (local.get 0) (i32.const 1)))
    (call $tree (i32.sub (local.get 0) (i32.const 1))))
  (func (export "hpmq_upstream") (param $ptr i32) (param $len i32) (result i64)
    (local $c i32)
    ;; header 16 + 4 per context entry + topic
    (local.set $c (i32.load8_u (i32.add (i32.add (local.get $ptr) (i32.const 16))
      (i32.add (i32.mul (i32.load16_u offset=2 (local.get $ptr)) (i32.const 4)) (i32.load16_u (local.get $ptr))))))
    (if (i32.eq (local.get $c) (i32.const 0x64)) (then (return (call $answer (i32.const 32) (i32.const 8)))))   ;; d
    (if (i32.eq (local.get $c) (i32.const 0x6a)) (then (return (call $answer (i32.const 48) (i32.const 16)))))  ;; j
    (if (i32.eq (local.get $c) (i32.const 0x74)) (then unreachable))                                            ;; t
    (if (i32.eq (local.get $c) (i32.const 0x6c)) (then (loop $l (br $l))))                                      ;; l
    (if (i32.eq (local.get $c) (i32.const 0x72)) (then (drop (call $recurse (i32.const 0)))))                   ;; r
    (if (i32.eq (local.get $c) (i32.const 0x78)) (then (call $tree (i32.const 62))))                            ;; x
    (if (i32.eq (local.get $c) (i32.const 0x6d)) (then                                                          ;; m
      (loop $l (br_if $l (i32.ne (memory.grow (i32.const 1)) (i32.const -1))))))
    (if (i32.eq (local.get $c) (i32.const 0x67)) (then                                                          ;; g
      (loop $l (br_if $l (i32.ne (table.grow 0 (ref.null func) (i32.const 65536)) (i32.const -1))))))
    (if (i32.eq (local.get $c) (i32.const 0x70)) (then (return (call $answer (i32.const 0x7fffffff) (i32.const 8)))))   ;; p
    (if (i32.eq (local.get $c) (i32.const 0x6e)) (then (return (call $answer (i32.const 96) (i32.const 0x7fffffff))))) ;; n
    (if (i32.eq (local.get $c) (i32.const 0x7a)) (then (return (call $answer (i32.const 96) (i32.const 8)))))  ;; z
    (if (i32.eq (local.get $c) (i32.const 0x66)) (then                                                          ;; f
      (drop (call $error (i32.const 80) (i32.const 14))) (return (i64.const -7))))
    (call $answer (i32.const 16) (i32.const 8))))
