"""Certificates for one test: an authority of its own and what it signs, made by openssl."""

import subprocess

from crashlib import Unavailable


def _openssl(*words):
    try:
        subprocess.run(["openssl", *words], check=True, capture_output=True)
    except FileNotFoundError:
        raise Unavailable("needs openssl") from None


class Authority:
    """Signs; `folder` holds `NAME.pem` and `NAME.key` of everything that it signed, and `ca.pem`."""

    def __init__(self, folder, name="ca"):
        self.folder, self._name = folder, name
        folder.mkdir(exist_ok=True)
        self.pem = folder / f"{name}.pem"
        _openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30",
                 "-subj", f"/CN=authority {name}", "-keyout", str(folder / f"{name}.key"), "-out", str(self.pem))

    def issue(self, name, days=30, key=("ec", "ec_paramgen_curve:P-256"), address="127.0.0.1"):
        """A certificate for localhost and this address, valid for so many days; already over if negative."""
        request, extensions = self.folder / f"{name}.csr", self.folder / f"{name}.ext"
        extensions.write_text(f"subjectAltName = DNS:localhost, IP:{address}\n", encoding="ascii")
        key_pem, pem = self.folder / f"{name}.key", self.folder / f"{name}.pem"
        _openssl("req", "-newkey", key[0], "-pkeyopt", key[1], "-nodes", "-subj", f"/CN={name}",
                 "-keyout", str(key_pem), "-out", str(request))
        _openssl("x509", "-req", "-in", str(request), "-CA", str(self.pem),
                 "-CAkey", str(self.folder / f"{self._name}.key"), "-CAcreateserial", "-days", str(days),
                 "-extfile", str(extensions), "-out", str(pem))
        return pem, key_pem
