//! The Debian packages of a root file system, from dpkg's own list.

use super::purl::encoded;

/// One installed package.
#[derive(Debug, PartialEq, Eq)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    architecture: String,
    /// The source package, as `NAME` or `NAME@VERSION`, where it differs: Debian's advisories go by it.
    source: Option<String>,
}

impl Package {
    /// Its package URL.
    pub fn purl(&self, suite: &str) -> String {
        let (name, version) = (encoded(&self.name), encoded(&self.version));
        let upstream = self.source.as_ref().map(|source| format!("&upstream={}", encoded(source)));
        format!(
            "pkg:deb/debian/{name}@{version}?arch={}&distro={suite}{}",
            self.architecture,
            upstream.unwrap_or_default()
        )
    }
}

/// The packages of `/var/lib/dpkg/status` that are installed.
pub fn installed(status: &str) -> Vec<Package> {
    status.split("\n\n").filter_map(package).collect()
}

fn package(paragraph: &str) -> Option<Package> {
    let field = |name: &str| {
        let value = paragraph.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        value.map(str::to_owned)
    };
    if !field("Status")?.ends_with(" installed") {
        return None;
    }
    Some(Package {
        name: field("Package")?,
        version: field("Version")?,
        architecture: field("Architecture")?,
        source: field("Source").map(|source| source.replace(" (", "@").trim_end_matches(')').to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nSource: glibc\n\
        Version: 2.41-12+deb13u1\nDescription: library\n Package: none\n\n\
        Package: bash\nStatus: install ok installed\nArchitecture: amd64\nSource: bash (5.2.37-2)\n\
        Version: 5.2.37-2+b10\n\n\
        Package: gone\nStatus: deinstall ok config-files\nArchitecture: all\nVersion: 1\n\n\
        Package: tzdata\nStatus: install ok installed\nArchitecture: all\nVersion: 2026a-0\n";

    #[test]
    fn packages_are_known_by_name_version_and_source() {
        let purls: Vec<String> = installed(STATUS).iter().map(|package| package.purl("trixie")).collect();
        assert_eq!(
            purls,
            [
                "pkg:deb/debian/libc6@2.41-12%2Bdeb13u1?arch=amd64&distro=trixie&upstream=glibc",
                "pkg:deb/debian/bash@5.2.37-2%2Bb10?arch=amd64&distro=trixie&upstream=bash%405.2.37-2",
                "pkg:deb/debian/tzdata@2026a-0?arch=all&distro=trixie",
            ]
        );
    }
}
