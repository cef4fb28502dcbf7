# What RuntimeDefault means: a container is kept by its namespaces, capabilities and mounts; this
# holds where one of those was given away.
profile coracle-default flags=(attach_disconnected,mediate_deleted) {
  capability,
  file,
  network,
  unix,
  umount,

  # Its own processes; and the machine's administrator may look at them and end them.
  signal (send, receive) peer=coracle-default,
  signal (receive) peer=unconfined,
  ptrace (trace, read, tracedby, readby) peer=coracle-default,
  ptrace (tracedby, readby) peer=unconfined,

  # A mount could show what the mounts made for it hide.
  deny mount,
  deny pivot_root,

  # The kernel's switches and the machine's memory.
  deny /proc/* w,
  deny /proc/{acpi,bus,driver,fs,irq,scsi,sys,tty}/** w,
  deny /proc/{kcore,kmem,mem,sysrq-trigger,timer_list} rwklx,
  deny /sys/{block,bus,class,dev,devices,firmware,hypervisor,kernel,module,power}/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/firmware/** r,
  deny /sys/kernel/{debug,security,tracing}/** r,
}
