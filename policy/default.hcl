# HPMQ policy: who may do what.
#
# What no grant allows is denied; grants add up; one matching deny beats them
# all. This file is read again when you save it. A file with an error, or with a
# failing test, changes nothing: the node says why and keeps what it has.
#
#   hpmq policy check policy/                         errors, warnings, tests
#   hpmq why pump-7 publish site/home/valve/set       which line decides
#
# Put more *.hcl files next to this one; they are read together.

version = 2 # from 2 on, grants say what sites receive

# --- groups -----------------------------------------------------------------
# A group selects identities by name (members = ["device:plc-*"]) or by the
# labels that the directory holds for them. `hpmq enroll ticket --role sensor`
# gives a device the label role = "sensor".

group "sensor" {
  labels = { role = "sensor" }
}

# Groups with power name exact identities, never a pattern or a label.
group "admin" {
  members = ["user:admin"]
}

# --- topics -----------------------------------------------------------------
# ${id.name}, ${id.site} (home site), ${id.labels.x} and ${session.site} stand
# for values of whoever is connected. Without such a value there is no grant.
#
# publish    to these topics; with the retain flag, `retain` is needed as well
# subscribe  to these filters or narrower ones: site/a/# includes site/a/+/temp
# will       may be left behind on these topics
#
# Bounds: max_qos = 1, max_size = "64KiB". Beside topics, limits { connections = 2 }
# bounds each identity; also publish_messages = 50, publish_bytes = "64KiB" (per second).

grant "sensor" {
  to = ["group:sensor"]
  topics {
    publish   = ["site/${id.site}/${id.name}/#"]
    will      = ["site/${id.site}/${id.name}/#"]
    retain    = ["site/${id.site}/${id.name}/#"]
    subscribe = ["site/${id.site}/${id.name}/cmd/#"]
  }
}

# --- people and this machine ------------------------------------------------

grant "admin" {
  to = ["group:admin"]
  topics {
    subscribe = ["#", "$SYS/#", "$hpmq/func/#"]
  }
  network {
    dst   = ["device:*", "node:*", "service:*"]
    allow = ["tcp/*", "udp/*"]
  }
}

# A site in the wrong hands can say that anybody is there who may publish there:
# so the administrator may at home only. The same line in other grants ties
# devices to their site; without it they may roam.
grant "admin publishes" {
  to   = ["group:admin"]
  when = session.site == id.site
  topics {
    publish = ["#"]
    will    = ["#"]
    retain  = ["#"]
  }
}

# service:local is whoever started this node, on the plain listener of this
# machine (port 1883, loopback only); service:guest is any other user there. At
# this site service:local may publish whatever no deny forbids; the grant says what
# of that other sites get, and what it may subscribe to.
grant "local" {
  to = ["service:local"]
  topics {
    publish   = ["site/${id.site}/#", "demo/#"]
    will      = ["site/${id.site}/#", "demo/#"]
    retain    = ["site/${id.site}/#", "demo/#"]
    subscribe = ["#", "$SYS/#", "$hpmq/func/#"]
  }
}

grant "guest" {
  to = ["service:guest"]
  topics {
    publish   = ["demo/#"]
    will      = ["demo/#"]
    retain    = ["demo/#"]
    subscribe = ["demo/#"]
  }
}

# --- sites ------------------------------------------------------------------
# What a site receives of messages published at others; what begins with $ never
# leaves its site. `except` takes from its own block alone and denies nothing: each
# site gets everything but other sites' commands, and its own branch whole.

grant "sites" {
  to = ["site:*"]
  topics {
    receive = ["#"]
    except  = ["site/+/+/cmd/#"]
  }
  topics {
    receive = ["site/${id.site}/#"]
  }
}

# --- reaching devices -------------------------------------------------------
# Lets the pump's vendor open its web page: hpmq forward pump-7:8080
#
# grant "vendor" {
#   to = ["user:tech@vendor.example"]
#   network {
#     dst   = ["device:pump-7"]      # or a group: "group:sensor"
#     allow = ["tcp/8080"]           # also: "tcp/8000-8100", "udp/161", "tcp/*"
#   }
# }

# --- denies -----------------------------------------------------------------
# deny "emergency-stop" {
#   to     = ["*"]
#   except = ["device:safety-controller"]
#   reason = "only the safety controller may stop the line"
#   topics { publish = ["site/+/+/cmd/estop"] }
# }

# --- functions --------------------------------------------------------------
# A binding runs a function on messages; the grant says what it may emit. What
# it emits is checked as the function and as the device that sent the original.
#
# binding "normalise" {
#   function = "normalise"
#   on       = "upstream"            # device to fabric; or "downstream"
#   topics   = ["site/+/+/raw"]
#   to       = ["group:sensor"]      # whose messages
#   order    = 10                    # lower runs first
#   on_error = "dead-letter"         # or "drop", "reject"
# }
#
# grant "normalise" {
#   to = ["function:normalise"]
#   function {
#     publish      = ["site/+/+/telemetry"]
#     capabilities = ["prev"]
#     memory       = "16MiB"
#     timeout      = "20ms"
#   }
# }

# --- tests ------------------------------------------------------------------
# Run before the policy is put in force, and by `hpmq policy test policy/`.

test "a sensor stays in its own branch" {
  as = { id = "device:pump-7", site = "home", labels = { role = "sensor" } }
  allow = [
    "publish   site/home/pump-7/raw",
    "retain    site/home/pump-7/status",
    "will      site/home/pump-7/status",
    "subscribe site/home/pump-7/cmd/#",
  ]
  deny = [
    "publish   site/home/pump-8/raw",
    "publish   site/home/valve/set",
    "publish   site/lyon/pump-7/raw",
    "subscribe site/home/pump-7/#",
    "subscribe #",
    "connect   device:pump-8 tcp/22",
  ]
}

test "a device without a role may do nothing" {
  as = { id = "device:pump-9", site = "home" }
  deny = [
    "publish   site/home/pump-9/raw",
    "subscribe demo/#",
  ]
}

test "the admin may do everything" {
  as = { id = "user:admin", site = "home" }
  allow = [
    "publish   site/lyon/valve/set",
    "subscribe #",
    "connect   device:pump-7 tcp/8080",
  ]
}

test "the admin publishes at home only" {
  as    = { id = "user:admin", site = "home", session_site = "lyon" }
  allow = ["subscribe #", "connect device:pump-7 tcp/8080"]
  deny  = ["publish demo/hi"]
}

test "this machine works in its own site" {
  as    = { id = "service:local", site = "home" }
  allow = ["publish site/home/valve/set", "publish demo/hi", "subscribe site/#"]
  deny  = ["publish site/lyon/valve/set", "connect device:pump-7 tcp/22"]
}

test "a guest has the demo branch only" {
  as    = { id = "service:guest", site = "home" }
  allow = ["publish demo/hi", "subscribe demo/#"]
  deny  = ["publish site/home/x", "subscribe #"]
}

test "a site receives its own commands and no other's" {
  as = { id = "site:lyon" }
  allow = [
    "receive site/lyon/valve/cmd/open",
    "receive site/home/pump-7/raw",
    "receive demo/hi",
  ]
  deny = ["receive site/home/pump-7/cmd/open"]
}
