# Which messages pass through the function, and what it may emit.
binding "normalise" {
  function = "normalise"
  on       = "upstream"
  topics   = ["site/+/+/raw"]
  to       = ["group:sensor"]
}

grant "normalise" {
  to = ["function:normalise"]
  function {
    publish      = ["site/+/+/telemetry"]
    capabilities = ["prev"]
  }
}
