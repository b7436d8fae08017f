use proptest::prelude::*;

use super::*;
use crate::vm::Options;

fn line(text: &[&str]) -> CommandLine {
    CommandLine {
        program: "/usr/bin/qemu-system-x86_64".into(),
        directory: "/srv/vm1".into(),
        args: text.iter().map(ToString::to_string).collect(),
    }
}

fn substitutions() -> Substitutions {
    let replica = |disk: &str, path: &str| Replica {
        disk: disk.into(),
        path: path.into(),
    };
    Substitutions {
        disks: vec![
            replica("/srv/vm1/a.qcow2", "/replica/a,1.raw"),
            replica("data", "/dev/vg/data"),
        ],
        taps: vec![TapSubstitution {
            network: "tap0".into(),
            ifname: "tap7".into(),
        }],
        directory: "/run/vm1".into(),
        qmp: "/run/vm1/qmp.sock".into(),
        ..Substitutions::default()
    }
}

/// Derives from these options, with a versioned machine and without defaults.
fn derived(options: &[&str]) -> Derived {
    let all = [
        &["-machine", "pc-q35-7.2", "-nodefaults", "-display", "none"],
        options,
    ]
    .concat();
    derive(&line(&all), &substitutions()).unwrap()
}

/// What became of these options.
fn args(options: &[&str]) -> Vec<String> {
    let args = derived(options).command_line.args;
    args[5..args.len() - 5].iter().map(|a| sorted(a)).collect()
}

/// JSON with its keys in order, whatever order the library keeps.
fn sorted(arg: &str) -> String {
    fn text(value: &serde_json::Value) -> String {
        let serde_json::Value::Object(map) = value else {
            return value.to_string();
        };
        let mut pairs: Vec<_> = map.iter().map(|(k, v)| format!("{k:?}:{}", text(v))).collect();
        pairs.sort();
        format!("{{{}}}", pairs.join(","))
    }
    match serde_json::from_str(arg) {
        Ok(value) if arg.starts_with('{') => text(&value),
        _ => arg.to_owned(),
    }
}

fn refusal(options: &[&str]) -> String {
    let all = [&["-machine", "pc-q35-7.2"], options].concat();
    derive(&line(&all), &substitutions()).unwrap_err().to_string()
}

#[test]
fn the_same_machine_waits_for_a_state() {
    let it = derived(&[
        "-S",
        "-incoming",
        "tcp:0:4444",
        "-daemonize",
        "-pidfile",
        "p",
        "-qmp",
        "stdio",
        "-m",
        "64",
    ]);
    let expected = [
        "-machine",
        "pc-q35-7.2",
        "-nodefaults",
        "-display",
        "none",
        "-pidfile",
        "/run/vm1/qemu.pid",
        "-m",
        "64",
        "-qmp",
        "unix:/run/vm1/qmp.sock,server=on,wait=off",
        "-incoming",
        "defer",
        "-S",
    ];
    assert_eq!(it.command_line.args, expected);
    assert_eq!(it.command_line.program, line(&[]).program);
    let shown: Vec<_> = it.changes.iter().map(ToString::to_string).collect();
    assert!(
        shown.contains(&"-pidfile: /run/vm1/qemu.pid instead of p".to_string()),
        "{shown:?}"
    );
    assert!(
        shown.contains(&"-daemonize: left out on".to_string()),
        "{shown:?}"
    );
    assert!(shown.contains(&"-incoming: added defer".to_string()), "{shown:?}");
}

#[test]
fn drives_become_raw_replicas() {
    let it = args(&[
        "-drive",
        "file=a.qcow2,format=qcow2,if=virtio,cache=none,aio=native,lazy-refcounts=on,bps=10",
    ]);
    assert_eq!(
        it[1],
        "file=/replica/a,,1.raw,format=raw,if=virtio,cache=none,aio=native,bps=10"
    );
    let it = args(&[
        "-drive",
        "id=data,driver=qcow2,file.driver=file,file.filename=/x,file.aio=io_uring,if=none",
    ]);
    assert_eq!(it[1], "file=/dev/vg/data,format=raw,id=data,if=none,aio=io_uring");
    let it = derived(&[
        "-drive",
        "file=cd.iso,media=cdrom",
        "-drive",
        "if=ide",
        "-hdb",
        "a.qcow2",
    ]);
    let text = it.command_line.args.join(" ");
    assert!(text.contains("-drive file=/srv/vm1/cd.iso,media=cdrom -drive if=ide -drive file=/replica/a,,1.raw,format=raw,index=1"));
    let needs = [
        Need::SameFile("/srv/vm1/cd.iso".into()),
        Need::Replica("/replica/a,1.raw".into()),
    ];
    assert_eq!(it.needs, needs);
    assert!(
        refusal(&["-drive", "file=b.raw,format=raw"])
            .contains("b.raw can be written by the guest and has no replica")
    );
    assert!(refusal(&["b.raw"]).contains("no replica"));
}

#[test]
fn block_nodes_become_raw_replicas() {
    let it = args(&[
        "-blockdev",
        "driver=file,node-name=base0,filename=/base.qcow2,read-only=on",
        "-blockdev",
        "driver=qcow2,node-name=base,file=base0,read-only=on",
        "-blockdev",
        r#"{"driver":"file","filename":"/srv/vm1/a.qcow2","node-name":"p","aio":"native","cache":{"direct":true}}"#,
        "-blockdev",
        r#"{"driver":"qcow2","node-name":"d","file":"p","backing":"base","discard":"unmap"}"#,
        "-device",
        "virtio-blk-pci,drive=d",
    ]);
    let expected = [
        "-blockdev",
        r#"{"aio":"native","cache":{"direct":true},"driver":"file","filename":"/replica/a,1.raw","node-name":"p"}"#,
        "-blockdev",
        r#"{"discard":"unmap","driver":"raw","file":"p","node-name":"d"}"#,
        "-device",
        "virtio-blk-pci,drive=d",
    ];
    assert_eq!(it, expected);

    let it = args(&[
        "-blockdev",
        "qcow2,node-name=data,file.driver=file,file.filename=/x,file.aio=native",
        "-device",
        "ide-hd,drive=data",
    ]);
    assert_eq!(
        it[1],
        r#"{"driver":"raw","file":{"aio":"native","driver":"host_device","filename":"/dev/vg/data"},"node-name":"data"}"#
    );
    let it = args(&[
        "-blockdev",
        "file,node-name=data,filename=/x",
        "-machine",
        "pflash1=data",
    ]);
    assert!(
        it[1].contains(r#""driver":"host_device","filename":"/dev/vg/data","node-name":"data""#),
        "{it:?}"
    );

    // What nothing uses goes, what can only be read stays.
    let it = derived(&[
        "-blockdev",
        "file,node-name=u,filename=/u",
        "-blockdev",
        "file,node-name=r,filename=/r,read-only=on",
        "-device",
        "scsi-cd,drive=r",
    ]);
    let text = it.command_line.args.join(" ");
    assert!(
        !text.contains("node-name=u") && text.contains("-blockdev file,node-name=r,filename=/r,read-only=on")
    );
    assert!(it.needs.contains(&Need::SameFile("/r".into())));
}

#[test]
fn taps_get_their_names() {
    let it = derived(&[
        "-netdev",
        "tap,id=n0,ifname=tap0,script=no,downscript=no,vhost=off",
    ]);
    assert!(
        it.command_line
            .args
            .contains(&"tap,id=n0,ifname=tap7,script=no,downscript=no,vhost=off".into())
    );
    assert_eq!(it.needs, [Need::Tap("tap7".into())]);
    let it = args(&[
        "-nic",
        "tap,model=virtio,ifname=tap1",
        "-netdev",
        r#"{"type":"tap","id":"tap0","fd":"25"}"#,
    ]);
    assert_eq!(it[1], "tap,model=virtio,ifname=tap1");
    assert_eq!(
        it[3],
        r#"{"downscript":"no","id":"tap0","ifname":"tap7","script":"no","type":"tap"}"#
    );
    assert_eq!(args(&["-netdev", "user,id=u"])[1], "user,id=u");
    assert!(refusal(&["-netdev", "tap,id=n1,fd=3"]).contains("tap of network n1 has no name"));
    assert!(refusal(&["-netdev", "socket,id=n1,fd=3"]).contains("was open when QEMU started"));
}

#[test]
fn consoles_end_in_the_directory() {
    let it = args(&[
        "-chardev",
        "socket,id=mon0,path=/x,server=on",
        "-mon",
        "chardev=mon0,mode=control",
        "-chardev",
        "socket,id=ga,path=/y,server,nowait",
        "-device",
        "virtserialport,chardev=ga,name=org.qemu.guest_agent.0",
        "-chardev",
        "file,id=f,path=/z",
        "-chardev",
        "pty,id=p",
        "-chardev",
        "stdio,id=s,mux=on",
        "-serial",
        "chardev:s",
        "-serial",
        "file:/tmp/log",
        "-serial",
        "mon:stdio",
        "-serial",
        "tcp::4555,server",
        "-serial",
        "none",
        "-vnc",
        ":1,password=on",
        "-D",
        "/tmp/d",
        "-monitor",
        "tcp:localhost:1",
    ]);
    let expected = [
        "-chardev",
        "socket,id=ga,path=/run/vm1/ga1.sock,server=on,wait=off",
        "-device",
        "virtserialport,chardev=ga,name=org.qemu.guest_agent.0",
        "-chardev",
        "file,id=f,path=/run/vm1/f2.log",
        "-chardev",
        "pty,id=p",
        "-chardev",
        "null,id=s,mux=on",
        "-serial",
        "chardev:s",
        "-serial",
        "file:/run/vm1/serial3.log",
        "-serial",
        "null",
        "-serial",
        "unix:/run/vm1/serial4.sock,server=on,wait=off",
        "-serial",
        "none",
        "-vnc",
        "unix:/run/vm1/vnc5.sock",
        "-D",
        "/run/vm1/qemu.log",
    ];
    assert_eq!(it, expected);

    let it = derived(&[
        "-chardev",
        "socket,id=t,path=/x",
        "-tpmdev",
        "emulator,id=tpm0,chardev=t",
    ]);
    assert_eq!(it.needs, [Need::TpmSocket("/run/vm1/t.sock".into())]);

    let plain = derive(
        &line(&["-machine", "pc-i440fx-10.0", "-nographic"]),
        &substitutions(),
    )
    .unwrap();
    let text = plain.command_line.args.join(" ");
    assert!(
        text.contains("-nographic -serial null -parallel null -monitor none -qmp"),
        "{text}"
    );
}

#[test]
fn memory_and_files_are_named_for_the_standby() {
    let it = derived(&[
        "-object",
        "memory-backend-file,id=ram0,size=64M,mem-path=/dev/shm/x,share=on",
        "-kernel",
        "vmlinuz",
        "-bios",
        "seabios.bin",
        "-fw_cfg",
        "name=opt/x,file=/etc/x",
        "-audiodev",
        "pa,id=a,server=x",
    ]);
    let text = it.command_line.args.join(" ");
    assert!(text.contains(
        "-object memory-backend-memfd,id=ram0,size=64M,share=on -kernel /srv/vm1/vmlinuz -bios seabios.bin"
    ));
    assert!(text.contains("-audiodev none,id=a "));
    let needs = [
        Need::SameFile("/srv/vm1/vmlinuz".into()),
        Need::SameFile("/etc/x".into()),
    ];
    assert_eq!(it.needs, needs);
}

#[test]
fn an_alias_of_a_machine_gets_its_version() {
    let real = Substitutions {
        machine: Some("pc-q35-10.0".into()),
        program: Some("/opt/qemu".into()),
        ..substitutions()
    };
    let it = derive(&line(&["-M", "q35,accel=tcg"]), &real).unwrap();
    assert_eq!(it.command_line.args[1], "pc-q35-10.0,accel=tcg");
    assert_eq!(it.command_line.program, std::path::PathBuf::from("/opt/qemu"));
    assert!(derive(&line(&[]), &real).is_ok());
    for unversioned in [
        &["-machine", "q35"][..],
        &["-machine", "microvm"],
        &["-machine", "accel=kvm"],
        &[],
    ] {
        let e = derive(&line(unversioned), &substitutions()).unwrap_err();
        assert!(e.to_string().contains("has no version"), "{e}");
    }
    for versioned in ["pc-q35-7.2", "pc-i440fx-10.0", "pc-q35-rhel8.6.0", "virt-9.1"] {
        assert!(is_versioned(versioned), "{versioned}");
    }
}

#[test]
fn what_cannot_be_protected_is_refused() {
    let cases: &[(&[&str], &str)] = &[
        (&["-snapshot"], "-snapshot"),
        (&["-add-fd", "fd=3,set=1"], "file descriptor"),
        (&["-drive", "file=/dev/fdset/1,format=raw"], "file descriptor"),
        (&["-readconfig", "x"], "-readconfig"),
        (&["-preconfig"], "preconfig"),
        (&["-net", "nic"], "-net "),
        (&["-netdev", "tap,id=n,ifname=t,vhost=on"], "vhost=on"),
        (
            &["-netdev", r#"{"type":"tap","id":"n","ifname":"t","vhost":true}"#],
            "vhost=on",
        ),
        (&["-netdev", "vhost-user,id=n,chardev=c"], "vhost-user"),
        (&["-netdev", "vhost-vdpa,id=n,vhostdev=/dev/v"], "vhost-vdpa"),
        (&["-netdev", "tap,id=n,ifname=t,queues=4"], "more than one queue"),
        (&["-device", "virtio-net-pci,mq=on"], "more than one queue"),
        (&["-device", "vfio-pci,host=01:00.0"], "vfio-pci passes"),
        (&["-device", "usb-host"], "usb-host passes"),
        (&["-device", "vhost-vsock-pci,guest-cid=3"], "vhost device"),
        (&["-device", "virtio-mem-pci"], "adds and takes memory"),
        (&["-device", "nvdimm,memdev=m"], "kept in a file"),
        (&["-device", "ivshmem-plain"], "other machines"),
        (&["-virtfs", "local,path=/,mount_tag=x,security_model=none"], "9p"),
        (&["-object", "memory-backend-memfd,id=m,hugetlb=on"], "huge pages"),
        (
            &["-object", "memory-backend-file,id=m,mem-path=/dev/hugepages"],
            "huge pages",
        ),
        (&["-mem-path", "/dev/hugepages"], "huge pages"),
        (&["-object", "sev-guest,id=s"], "encrypted"),
        (&["-drive", "file=nvme://0000:01:00.0/1,if=virtio"], "nvme://"),
        (
            &["-blockdev", "nvme,node-name=n,device=0000:01:00.0,namespace=1"],
            "nvme://",
        ),
        (&["-blockdev", "io_uring,node-name=n,filename=/x"], "blkio"),
        (&["-drive", "file=rbd:pool/image,format=raw"], "other hosts share"),
        (&["-drive", "file=a.qcow2,snapshot=on"], "snapshot=on"),
        (&["-tpmdev", "passthrough,id=t"], "TPM is passed"),
        (&["-xen-attach"], "Xen"),
        (&["-blockdev", "{"], "begins as JSON"),
        (&["-m"], "without the value"),
    ];
    for (options, expected) in cases {
        let message = refusal(options);
        assert!(message.contains(expected), "{options:?}: {message}");
    }
}

fn any_word() -> impl Strategy<Value = String> {
    let names = "-(drive|blockdev|netdev|nic|chardev|serial|device|object|machine|M|vnc|display|mon|qmp|m|S|hda|kernel|fw_cfg|run-with|tpmdev|spice|audio)";
    let key = "(file|driver|node-name|id|type|ifname|fd|backend|path|filename|file\\.driver|file\\.filename|backing|read-only|drive|chardev)";
    let value = "(a|b|tap|socket|qcow2|file|raw|on|off|pc-q35-7\\.2|/x|,,|=|\u{e9})";
    let pairs = proptest::collection::vec((key, value).prop_map(|(k, v)| format!("{k}={v}")), 0..5)
        .prop_map(|p| p.join(","));
    let json = (key, value, key, value).prop_map(|(a, b, c, d)| {
        serde_json::json!({ a: b.clone(), "file": { c: d.clone() }, "node-name": b }).to_string()
    });
    prop_oneof![3 => names, 3 => pairs, 1 => json, 1 => ".{0,12}"]
}

proptest! {
    #[test]
    fn deriving_never_panics_and_what_is_derived_is_read_again(args in proptest::collection::vec(any_word(), 0..12)) {
        let mut active = line(&["-machine", "pc-q35-7.2"]);
        active.args.extend(args);
        let names = ["a", "b", "/x", "", "d"].map(|disk| Replica { disk: disk.into(), path: "/r,1".into() });
        let all = Substitutions { disks: names.to_vec(), ..substitutions() };
        if let Ok(it) = derive(&active, &all) {
            let words = fitness::words(&it.command_line).unwrap();
            prop_assert!(words.iter().any(|w| w.name == "incoming" && w.value == "defer"));
            prop_assert_eq!(words.iter().filter(|w| w.name == "qmp").count(), 1);
        }
    }

    #[test]
    fn any_path_reaches_qemu_as_it_is(path in "/[ -~]{1,30}") {
        let one = |disk: &str| Replica { disk: disk.into(), path: path.clone().into() };
        let all = Substitutions { disks: vec![one("d"), one("b")], ..substitutions() };
        let active = line(&["-machine", "pc-q35-7.2", "-drive", "id=d,file=/old", "-blockdev", "file,node-name=b,filename=/o", "-device", "ide-hd,drive=b"]);
        let it = derive(&active, &all).unwrap();
        let drive = Options::parse(&it.command_line.args[3], None).unwrap();
        prop_assert_eq!(drive.get("file").unwrap(), path.clone());
        let node = Options::parse(&it.command_line.args[5], None).unwrap();
        prop_assert_eq!(node.get("filename").unwrap(), path);
    }
}
