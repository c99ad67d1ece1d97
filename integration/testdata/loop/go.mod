module loop

go 1.24.0

require github.com/hpmq/hpmq/funcs/sdk/go v0.0.0

replace github.com/hpmq/hpmq/funcs/sdk/go => ../../../funcs/sdk/go
