package mqtt

import "testing"

func TestReserved(t *testing.T) {
	const no, policy, yes = "refused", "policy", "allowed"
	for _, tt := range []struct{ action, object, want string }{
		{"publish", "a", policy},
		{"publish", "$SYS/x", no},
		{"publish", "$SYSTEM/x", policy},
		{"retain", "$hpmq", no},
		{"will", "$share/g/x", no},
		{"publish", "$hpmq/me/denied", no},
		{"publish", "$hpmq/func/x/dlq", no},
		{"subscribe", "#", policy},
		{"subscribe", "+/me/denied", policy},
		{"subscribe", "$SYS/#", policy},
		{"subscribe", "$hpmq/#", no},
		{"subscribe", "$hpmq/+/denied", no},
		{"subscribe", "$hpmq/me/denied", yes},
		{"subscribe", "$hpmq/me/denied/#", no},
		{"subscribe", "$hpmq/func", no},
		{"subscribe", "$hpmq/func/#", policy},
		{"subscribe", "$hpmqx/#", policy},
		{"subscribe", "$share/g/a", policy},
		{"subscribe", "$share/g/$hpmq/me/denied", no},
		{"subscribe", "$share/g/$hpmq/func/x", policy},
		{"subscribe", "$share/g/$share/g/a", no},
		{"subscribe", "$share/g", no},
		{"receive", "$hpmq/x", no},
		{"receive", "$hpmq/me/denied", yes},
		{"connect", "$SYS/x", policy},
	} {
		v, reserved := Reserved(tt.action, tt.object)
		got := policy
		switch {
		case v.Allowed:
			got = yes
		case reserved:
			got = no
		}
		if got != tt.want {
			t.Errorf("%s %s: %s, want %s", tt.action, tt.object, got, tt.want)
		}
	}
}
