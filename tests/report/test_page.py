from hpc_jepa.report.build import write_report


def test_page(study):
    write_report([study])
