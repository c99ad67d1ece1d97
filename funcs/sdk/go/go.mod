module github.com/hpmq/hpmq/funcs/sdk/go

go 1.24.0
