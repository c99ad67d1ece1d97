# Anna looks after the pump's web page, from any site.
grant "vendor" {
  to = ["user:anna"]
  network {
    dst   = ["device:pump-7"]
    allow = ["tcp/8080"]
  }
}
