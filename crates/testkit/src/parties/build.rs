//! What must be built is built once, into `target/parties`, under a name that is a hash of what it is made of.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    time::UNIX_EPOCH,
};

use anyhow::{Context, Result, ensure};

use crate::{Host, gate, origin::python, pattern};

/// Metro and what it needs.
const METRO: &str = "/usr/share/java/jaxws-rt.jar";
const GSOAP: &str = "/usr/share/gsoap";

/// True if the compilers and stacks are here that are no Python packages.
pub fn are_installed(what: &str) -> bool {
    gate::programs(what, &["java", "javac", "wsimport", "wsdl2h", "soapcpp2", "gcc"])
}

/// Where the sources are.
pub(super) fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("parties")
}

/// The class path of the Java programs.
pub(super) fn java() -> Result<String> {
    let wsdls = ["orders.wsdl", "alarms.wsdl"].map(|name| sources().join(name));
    let mut parts = files(&sources().join("java"))?;
    parts.extend(wsdls.clone());
    let built = once("java", &read(&parts)?, &[METRO], |dir| {
        let generated = dir.join("generated");
        fs::create_dir(&generated)?;
        for wsdl in &wsdls {
            let package = wsdl.file_stem().context("a WSDL without a name")?;
            let mut wsimport = jvm("wsimport");
            wsimport.args(["-quiet", "-Xnocompile", "-s"]).arg(&generated);
            run(wsimport.arg("-p").arg(package).arg(wsdl))?;
        }
        let mut javac = jvm("javac");
        javac
            .args(["-nowarn", "-encoding", "UTF-8", "-cp", METRO, "-d"])
            .arg(dir);
        for folder in fs::read_dir(&generated)? {
            javac.args(files(&folder?.path())?);
        }
        run(javac.args(files(&sources().join("java"))?))
    })?;
    Ok(format!("{}:{METRO}", built.display()))
}

/// The class path of a program around the code that `wsimport` generates from the WSDL at a URL, which a host reads: `wsdl` is what is there.
pub(super) fn generated(host: &Host, url: &str, wsdl: &[u8], options: &str) -> Result<String> {
    let program = [
        sources().join("generated/OrderOnce.java"),
        sources().join("java/Say.java"),
    ];
    let parts = [url.as_bytes(), wsdl, &read(&program)?].concat();
    let built = once("generated", &parts, &[METRO], |dir| {
        let mut wsimport = host.command("wsimport");
        wsimport
            .args(["-quiet", "-Xnocompile", "-p", "orders", "-s"])
            .arg(dir)
            .arg(url);
        run(with_options(&mut wsimport, options))?;
        let mut javac = jvm("javac");
        javac.args(["-nowarn", "-cp", METRO, "-d"]).arg(dir);
        run(javac.args(files(&dir.join("orders"))?).args(&program))
    })?;
    Ok(format!("{}:{METRO}", built.display()))
}

/// The directory of the gSOAP programs.
pub(super) fn gsoap() -> Result<PathBuf> {
    let own = sources().join("gsoap");
    let wsdl = sources().join("orders.wsdl");
    let mut parts = files(&own)?;
    parts.push(wsdl.clone());
    once("gsoap", &read(&parts)?, &["/usr/bin/soapcpp2"], |dir| {
        let stock = |name: &str| format!("{GSOAP}/{name}");
        let mut wsdl2h = Command::new("wsdl2h");
        // `-b` makes the one-way operations by which a client receives answers.
        wsdl2h.args(["-c", "-b", "-o", "orders.h", "-t", &stock("WS/typemap.dat")]);
        run(wsdl2h.arg(&wsdl).current_dir(dir))?;
        let mut soapcpp2 = Command::new("soapcpp2");
        soapcpp2.args(["-c", "-L", "-x", "-w", "-a", "-I", &stock("import"), "orders.h"]);
        run(soapcpp2.current_dir(dir))?;
        for program in ["orders_server", "orders_client"] {
            let mut gcc = Command::new("gcc");
            gcc.args(["-O0", "-Wall", "-I.", "-I", &stock("plugin"), "-o", program]);
            gcc.arg(own.join(program).with_extension("c"));
            gcc.args([
                "soapC.c",
                "soapServer.c",
                "soapClient.c",
                &stock("plugin/wsaapi.c"),
            ]);
            run(gcc.args(["-lgsoap", "-lpthread"]).current_dir(dir))?;
        }
        Ok(())
    })
}

/// The directory of the package `parcels`, a Python client that is generated from an OpenAPI description.
pub(super) fn parcels(description: &[u8]) -> Result<PathBuf> {
    let venv = PathBuf::from(python::interpreter()?);
    let generator = venv.with_file_name("openapi-generator-cli").display().to_string();
    once("parcels", description, &[&generator], |dir| {
        fs::write(dir.join("openapi.json"), description)?;
        let mut generate = jvm(&generator);
        generate.args(["generate", "-g", "python", "--package-name", "parcels"]);
        generate.args([
            "--global-property",
            "apis,models,supportingFiles,apiDocs=false,modelDocs=false",
        ]);
        run(generate.args(["-i", "openapi.json", "-o", "."]).current_dir(dir))
    })
}

/// Builds into a directory, unless that was done already with the same parts and tools. Other test programs wait meanwhile.
fn once(
    name: &str,
    parts: &[u8],
    tools: &[&str],
    build: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let mut made_of = [include_bytes!("build.rs"), parts].concat();
    for tool in tools {
        let about =
            fs::metadata(tool).with_context(|| format!("{tool} is missing: run scripts/deps test"))?;
        let changed = about.modified()?.duration_since(UNIX_EPOCH)?;
        made_of.extend(format!("{tool} {} {changed:?}", about.len()).bytes());
    }
    let hash = pattern::hash_of(&made_of);
    let dir = python::workspace().join("target/parties");
    fs::create_dir_all(&dir)?;
    let done = dir.join(format!("{name}-{}", &hash[..16]));
    let lock = File::create(dir.join(format!("{name}.lock")))?;
    lock.lock()?;
    if !done.exists() {
        let half = done.with_extension("half");
        if half.exists() {
            fs::remove_dir_all(&half)?;
        }
        fs::create_dir(&half)?;
        build(&half)?;
        fs::rename(&half, &done)?;
    }
    Ok(done)
}

/// A command that starts a Java machine which will not live long.
fn jvm(program: &str) -> Command {
    let mut command = Command::new(program);
    with_options(&mut command, "");
    command
}

/// More options for the Java machine that a command starts.
pub(super) fn with_options<'a>(command: &'a mut Command, options: &str) -> &'a mut Command {
    command.env(
        "JAVA_TOOL_OPTIONS",
        format!("-XX:TieredStopAtLevel=1 -XX:+UseSerialGC {options}"),
    )
}

/// Runs a command to its end; a failure is an error with its words.
fn run(command: &mut Command) -> Result<()> {
    let out = command
        .output()
        .with_context(|| format!("{command:?} cannot be run"))?;
    ensure!(
        out.status.success(),
        "{command:?}: {}\n{}{}",
        out.status,
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    Ok(())
}

/// The files of a directory, in order.
fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).with_context(|| format!("{} cannot be read", dir.display()))?;
    let mut files = entries.map(|e| Ok(e?.path())).collect::<Result<Vec<_>>>()?;
    files.sort();
    Ok(files)
}

fn read(files: &[PathBuf]) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    for file in files {
        all.extend(fs::read(file).with_context(|| format!("{} cannot be read", file.display()))?);
    }
    Ok(all)
}
