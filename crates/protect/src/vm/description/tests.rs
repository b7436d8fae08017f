use super::*;
use crate::vm::{Replica, Substitutions, derive};

const WHOLE: &str = r#"
    name = "vm1"
    memory = "256M"
    cpus = 2
    kernel = "vmlinuz"
    append = "console=ttyS0 a,b"
    [[disk]]
    file = "a,b.raw"
    [[disk]]
    file = "/dev/vg/data"
    aio = "io_uring"
    read_only = true
    [[nic]]
    kind = "tap"
    ifname = "tap0"
    bridge = "br0"
    [[nic]]
    kind = "user"
    forward = ["tcp:127.0.0.1:2222-:22"]
"#;

#[test]
fn what_comes_of_it_can_be_protected() {
    let plan = Description::parse(WHOLE).unwrap().check().unwrap();
    let line = plan.command_line(Accelerator::Tcg, Path::new("/srv"));
    let text = line.args.join(" ");
    for part in [
        "-machine pc-q35-7.2,memory-backend=ram0 -accel tcg -cpu qemu64 -smp 2 -m 256 ",
        "memory-backend-memfd,id=ram0,size=256M,share=on",
        "-qmp unix:/run/hawser/vm/vm1/qmp.sock,server=on,wait=off",
        "-serial file:/run/hawser/vm/vm1/serial.log -kernel /srv/vmlinuz -append console=ttyS0 a,b",
        r#""filename":"/srv/a,b.raw""#,
        r#""driver":"host_device""#,
        "-netdev tap,id=net0,ifname=tap0,script=no,downscript=no,vhost=off",
        "-netdev user,id=net1,hostfwd=tcp:127.0.0.1:2222-:22",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    let replica = Replica {
        disk: "/srv/a,b.raw".into(),
        path: "/replica".into(),
    };
    let standby = Substitutions {
        disks: vec![replica],
        directory: "/run/s".into(),
        qmp: "/run/s/q".into(),
        ..Substitutions::default()
    };
    let derived = derive(&line, &standby).unwrap();
    assert!(
        derived
            .command_line
            .args
            .join(" ")
            .contains(r#""filename":"/replica""#)
    );
    let kvm = plan
        .command_line(Accelerator::Kvm, Path::new("/srv"))
        .args
        .join(" ");
    assert!(kvm.contains("-accel kvm -cpu host,vmx=off,svm=off"), "{kvm}");
}

#[test]
fn name_and_address_are_the_same_on_every_host() {
    let plan = || Description::parse(WHOLE).unwrap().check().unwrap();
    assert_eq!(plan().uuid(), plan().uuid());
    assert_ne!(uuid_of("a"), uuid_of("b"));
    assert_eq!(plan().uuid().get_version_num(), 8);
    assert!(is_mac(&mac_of(plan().uuid(), 0)));
    assert_ne!(mac_of(plan().uuid(), 0), mac_of(plan().uuid(), 1));
}

#[test]
fn everything_that_is_wrong_is_said_at_once() {
    let cases = [
        (
            "name = \"a b\"\nmemory = \"1x\"\ncpus = 0",
            &["name: expected", "memory: expected", "cpus: expected"][..],
        ),
        (
            "name = \"a\"\nmemory = \"1G\"\ninitrd = \"x\"\nserial = \"tcp:1\"",
            &["initrd: is used", "serial: expected"],
        ),
        (
            "name = \"a\"\nmemory = \"1G\"\n[[nic]]\nkind = \"tap\"\nifname = \"a/b\"\nmac = \"01:00:00:00:00:00\"",
            &["interface's name", "nic.mac"],
        ),
        (
            "name = \"a\"\nmemory = \"1G\"\nmachine = \"q35\"",
            &["q35 has no version"],
        ),
        (
            "name = \"a\"\nmemory = \"1G\"\narguments = [\"-device\", \"vfio-pci\"]",
            &["passes a device"],
        ),
        (
            "name = \"a\"\nmemory = \"1G\"\nmemori = 1",
            &["cannot be read", "memori"],
        ),
    ];
    for (text, expected) in cases {
        let error = Description::parse(text)
            .and_then(|d| d.check())
            .unwrap_err()
            .to_string();
        for part in expected {
            assert!(error.contains(part), "{part} is not in {error}");
        }
    }
    assert_eq!(bytes("2G"), Some(2 << 30));
    assert_eq!(bytes("64"), Some(64 << 20));
    assert_eq!(bytes("\u{e9}"), None);
    assert_eq!(bytes("99999999999T"), None);
}
