//! A running virtual machine, seen from outside: the `Guest` trait and its QEMU driver.
